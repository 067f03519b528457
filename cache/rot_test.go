package cache_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"berth/cache"
	"berth/cache/store"
	"berth/internal/ocitest"
	"berth/oci"
)

// kept is where obj lies.
func (h *house) kept(dir string, obj oci.Object) string {
	hex := obj.Digest.Encoded()
	return filepath.Join(dir, "blobs", h.id.Dir(), "sha256", hex[:2], hex)
}

// reopen is a restart.
func (h *house) reopen(t *testing.T, o cache.Options) {
	t.Helper()
	if err := h.cache.Close(); err != nil {
		t.Fatal(err)
	}
	o.Now = h.clock
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	h.cache = c
}

// newHouseIn is newHouse with a cache that can be reopened.
func newHouseIn(t *testing.T, o cache.Options) *house {
	t.Helper()
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	o.Now = h.clock
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	h.cache = c
	t.Cleanup(func() {
		if err := h.cache.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// damage is what can happen to a file.
var damage = map[string]func(path string, data []byte) error{
	"flipped": func(path string, data []byte) error {
		bad := bytes.Clone(data)
		bad[len(bad)*2/3] ^= 4
		return os.WriteFile(path, bad, 0o600)
	},
	"truncated": func(path string, data []byte) error { return os.Truncate(path, int64(len(data))-1) },
	"emptied":   func(path string, _ []byte) error { return os.Truncate(path, 0) },
	"deleted":   func(path string, _ []byte) error { return os.Remove(path) },
}

// Whatever becomes of blobs on the disk while nobody looks: none is served to
// its end, each is noticed by its first reader, and fetched again.
func TestBitRot(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	h := newHouseIn(t, cache.Options{Dir: dir})
	type blob struct {
		obj  oci.Object
		data []byte
	}
	blobs := map[string][]blob{}
	for how, n := range map[string]int{"flipped": 1000, "truncated": 100, "emptied": 100, "deleted": 100} {
		for i := range n {
			size := 2 + i*7%9000
			switch {
			case i%100 == 1:
				size = 300<<10 + i // is sent from the disk
			case i == 2 || i == 3 && how == "flipped":
				size = 5*mib + i // is sent while it is verified
			}
			data := random(uint64(len(how))<<32+uint64(i), size)
			copy(data, fmt.Sprint(how[:1], i)[:2])
			b := blob{h.addBlob("acme/app", data), data}
			blobs[how] = append(blobs[how], b)
		}
	}
	every := func(do func(how string, b blob)) {
		var all sync.WaitGroup
		work := make(chan func())
		for range 8 {
			all.Go(func() {
				for f := range work {
					f()
				}
			})
		}
		for how, some := range blobs {
			for _, b := range some {
				work <- func() { do(how, b) }
			}
		}
		close(work)
		all.Wait()
	}
	s := h.source("acme", "a")
	every(func(_ string, b blob) { read(t, s, b.obj) })
	h.settle() // all is kept after its last byte
	h.reopen(t, cache.Options{Dir: dir})
	s = h.source("acme", "a")
	every(func(how string, b blob) {
		if err := damage[how](h.kept(dir, b.obj), b.data); err != nil {
			t.Error(err)
		}
	})
	before := h.count("open", oci.Blob)
	every(func(how string, b blob) {
		got, err := get(t.Context(), s, b.obj, oci.Range{})
		if err == nil && !bytes.Equal(got, b.data) || err != nil && len(got) >= len(b.data) {
			t.Errorf("%s, of %d bytes: %d came, %v", how, len(b.data), len(got), err)
		}
		if err != nil && len(b.data) < 4*mib {
			t.Errorf("%s, of %d bytes: a reader noticed it: %v", how, len(b.data), err)
		}
	})
	every(func(how string, b blob) {
		if got, err := get(t.Context(), s, b.obj, oci.Range{}); err != nil || !bytes.Equal(got, b.data) {
			t.Errorf("%s, of %d bytes, the second time: %d came, %v", how, len(b.data), len(got), err)
		}
	})
	if got := h.count("open", oci.Blob) - before; got != 1300 {
		t.Errorf("%d blobs were fetched again, want 1300", got)
	}
	if got := h.cache.Numbers().Corrupt; !maps.Equal(got, map[string]int64{"registry.example": 1100}) {
		t.Errorf("counted: %v", got)
	}
}

// A blob that was never read since the start is hashed once, by whoever comes
// first; parts of it, and its size, wait for that.
func TestFirstReadOfALargeBlob(t *testing.T) {
	for how, spoil := range damage {
		if how == "emptied" || how == "deleted" {
			continue // like a blob that never was there
		}
		for name, ask := range map[string]func(s oci.Source, obj oci.Object, data []byte) error{
			"a part": func(s oci.Source, obj oci.Object, data []byte) error {
				got, err := get(t.Context(), s, obj, oci.Range{Start: 100, Length: 1000})
				if err == nil && !bytes.Equal(got, data[100:1100]) {
					err = fmt.Errorf("%d wrong bytes", len(got))
				}
				return err
			},
			"the end": func(s oci.Source, obj oci.Object, data []byte) error {
				got, err := get(t.Context(), s, obj, oci.Range{Start: -1000})
				if err == nil && !bytes.Equal(got, data[len(data)-1000:]) {
					err = fmt.Errorf("%d wrong bytes", len(got))
				}
				return err
			},
			"its size": func(s oci.Source, obj oci.Object, data []byte) error {
				c, err := s.Stat(t.Context(), obj)
				if err == nil && c.Size != int64(len(data)) {
					err = fmt.Errorf("it has %d bytes", c.Size)
				}
				return err
			},
		} {
			t.Run(how+"/"+name, func(t *testing.T) {
				t.Parallel()
				dir := ocitest.MemoryDir(t)
				h := newHouseIn(t, cache.Options{Dir: dir})
				data := random(50, 6*mib)
				obj := h.addBlob("acme/app", data)
				read(t, h.source("acme", "a"), obj)
				h.settle() // it is kept after its last byte
				h.reopen(t, cache.Options{Dir: dir})
				if err := spoil(h.kept(dir, obj), data); err != nil {
					t.Fatal(err)
				}
				if err := ask(h.source("acme", "a"), obj, data); err != nil {
					t.Error(err)
				}
				if n := h.cache.Numbers().Corrupt["registry.example"]; n != 1 {
					t.Errorf("counted: %d", n)
				}
				if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
					t.Error("wrong bytes")
				}
			})
		}
	}
}

// Many first readers of a large bad blob: none gets all of it.
func TestManyFirstReaders(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	h := newHouseIn(t, cache.Options{Dir: dir})
	data := random(51, 9*mib)
	obj := h.addBlob("acme/app", data)
	read(t, h.source("acme", "a"), obj)
	hashes := 0
	var mu sync.Mutex
	h.reopen(t, cache.Failing(cache.Options{Dir: dir}, func(op store.Op, path string) error {
		if op == store.OpRead && path == h.kept(dir, obj) {
			mu.Lock()
			defer mu.Unlock()
			hashes++
		}
		return nil
	}))
	if err := damage["flipped"](h.kept(dir, obj), data); err != nil {
		t.Fatal(err)
	}
	s := h.source("acme", "a")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			c, err := s.Open(t.Context(), obj, oci.Range{})
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(c.Body)
			if err == nil && !bytes.Equal(got, data) || len(got) == len(data) && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err != nil && oci.ClassOf(err) != oci.Disk {
				t.Errorf("%v is called %s", err, oci.ClassOf(err))
			}
			_ = c.Body.Close() // only read from
		})
	}
	all.Wait()
	mu.Lock()
	defer mu.Unlock()
	// Who had opened the bad file when it went verifies it once more.
	if once := 9 * mib / (256 << 10); hashes >= 5*once {
		t.Errorf("%d reads to verify it; once is %d", hashes, once)
	}
	if n := h.cache.Numbers().Corrupt["registry.example"]; n != 1 {
		t.Errorf("counted: %d", n)
	}
}

// A bad blob that cannot be deleted is not served all the same.
func TestBadBlobThatStays(t *testing.T) {
	for _, size := range []int{1000, mib} {
		dir := ocitest.MemoryDir(t)
		h := newHouseIn(t, cache.Options{Dir: dir})
		data := random(52, size)
		obj := h.addBlob("acme/app", data)
		read(t, h.source("acme", "a"), obj)
		var readOnly atomic.Bool
		h.reopen(t, cache.Failing(cache.Options{Dir: dir}, func(op store.Op, _ string) error {
			if readOnly.Load() && (op == store.OpRemove || op == store.OpMake) {
				return os.ErrPermission
			}
			return nil
		}))
		readOnly.Store(true)
		if err := damage["flipped"](h.kept(dir, obj), data); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
				t.Error("wrong bytes")
			}
		}
		if n := h.cache.Numbers(); n.Corrupt["registry.example"] != 1 || n.Bypassed == 0 {
			t.Errorf("%+v", n)
		}
	}
}
