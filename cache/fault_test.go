package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/cache"
	"berth/cache/store"
	"berth/oci"
)

// nth fails the nth file operation. A short write fails after its first half.
type nth struct {
	mu   sync.Mutex
	left int
	err  error
	hit  string
}

func (f *nth) fault(op store.Op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left != 0 {
		return nil
	}
	f.hit = fmt.Sprint(op, " ", path)
	return f.err
}

func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc:", err)
	}
	return len(all)
}

// Every file operation of pulls into an empty cache and, after a restart, from it
// fails once. Whatever was being done ends in right bytes, also of a blob that is
// sent before all of it is there; and nothing is left open. That descriptors have run
// out is told, and the next pull is well.
func TestEveryFileOperationFails(t *testing.T) {
	for name, c := range map[string]struct {
		sizes []int
		least int // so many operations there are
		step  int // each of so many fails, but for a long run, where all do
	}{
		"small objects": {[]int{100, 300 << 10}, 60, 1},
		"a large blob":  {[]int{4*mib + 1000}, 20, 3},
	} {
		t.Run(name, func(t *testing.T) {
			h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
			h.chunk = 1 << 20
			objects := map[oci.Object][]byte{}
			for i, size := range c.sizes {
				data := random(uint64(60+i), size)
				objects[h.addBlob("acme/app", data)] = data
			}
			if len(c.sizes) > 1 {
				manifest := `{"schemaVersion":2,"layers":[]}`
				objects[h.addManifest("acme/app", "1", manifest)] = []byte(manifest)
			}
			failEach(t, h, objects, c.least, c.step)
		})
	}
}

func failEach(t *testing.T, h *house, objects map[oci.Object][]byte, least, step int) {
	t.Helper()
	ways := []error{unix.EIO, unix.ENOSPC, unix.EMFILE, io.ErrShortWrite}
	rounds := 1 // each operation fails in one of the ways
	if os.Getenv("BERTH_LONG") != "" {
		rounds, step = len(ways), 1
	}
	for round := range rounds {
		failed := 0
		for n := 1; ; n += step {
			f := &nth{left: n, err: ways[(n+round)%len(ways)]}
			pullsThroughFault(t, h, objects, f)
			if f.hit == "" {
				break
			}
			failed++
			if t.Failed() {
				t.Fatalf("operation %d failed with %q: %s", n, f.err, f.hit)
			}
		}
		if failed < least {
			t.Errorf("only %d operations failed", failed)
		}
		t.Logf("%d operations failed, one at a time", failed)
	}
}

func pullsThroughFault(t *testing.T, h *house, objects map[oci.Object][]byte, f *nth) {
	t.Helper()
	before := descriptors(t)
	dir, err := os.MkdirTemp("/dev/shm", "berth-cache-") //nolint:usetesting // many, and each is to go at once
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays shows below
	for range 2 {
		c, err := cache.New(cache.Failing(cache.Options{Dir: dir, Now: h.clock, MaxSize: 64 * mib}, f.fault))
		if err != nil {
			continue // a clean error: the program ends
		}
		h.cache = c
		s := h.source("acme", "a")
		for obj, data := range objects {
			pullThroughFault(t, s, obj, data)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

// getInto is get without garbage: io.ReadAll takes the race detector seconds.
func getInto(buf []byte, ctx context.Context, s oci.Source, obj oci.Object) ([]byte, error) { //nolint:revive // where it goes comes first
	c, err := s.Open(ctx, obj, oci.Range{})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if c.Data != nil {
		return buf[:copy(buf, c.Data)], nil
	}
	n, err := io.ReadFull(c.Body, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) { // or it was cut: too few bytes tell
		err = nil
		if int64(n) != c.Size {
			err = io.ErrUnexpectedEOF
		}
	}
	return buf[:n], err
}

func pullThroughFault(t *testing.T, s oci.Source, obj oci.Object, data []byte) {
	t.Helper()
	got, err := getInto(make([]byte, len(data)+1), t.Context(), s, obj)
	if errors.Is(err, unix.EMFILE) && oci.ClassOf(err) == oci.Disk && oci.AsError(err).RetryAfter > 0 {
		// Going past the disk would take a descriptor too: the client comes again.
		got, err = getInto(make([]byte, len(data)+1), t.Context(), s, obj)
	}
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
	}
}

// A disk that does not give back what it took is not the registry's fault: the pull
// goes on past it, and the next one too.
func TestDiskThatForgetsWhileItIsFilled(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	h.cache = open(t, cache.Failing(cache.Options{Dir: t.TempDir(), Now: h.clock}, func(op store.Op, _ string) error {
		if op == store.OpRead {
			return unix.EIO
		}
		return nil
	}))
	data := random(70, 6*mib)
	obj, s := h.addBlob("acme/app", data), h.source("acme", "a")
	// What comes in order is hashed from memory. What came ahead is read back.
	if got, err := get(t.Context(), s, obj, oci.Range{Start: 4 * mib, Length: 1}); err != nil || got[0] != data[4*mib] {
		t.Errorf("one byte further on: %d bytes, %v", len(got), err)
	}
	if got, err := get(t.Context(), s, obj, oci.Range{}); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the first pull: %d bytes, %v", len(got), err)
	}
	c, err := s.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Body.Close() }()
	got, err := io.ReadAll(c.Body)
	if err != nil || !bytes.Equal(got, data) || c.Result != oci.Pass {
		t.Errorf("the next one: %d bytes, %v, %s", len(got), err, c.Result)
	}
}
