package cache_test

import (
	"bytes"
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

// Every file operation of pulls into an empty cache, from it, and from it after
// a restart fails once. Whatever was being done ends in right bytes or in a clean
// error, the next try succeeds, and nothing is left open.
func TestEveryFileOperationFails(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	h.chunk = 1 << 20
	objects := map[oci.Object][]byte{}
	for i, size := range []int{100, 300 << 10, 4*mib + 1000} {
		data := random(uint64(60+i), size)
		objects[h.addBlob("acme/app", data)] = data
	}
	manifest := `{"schemaVersion":2,"layers":[]}`
	objects[h.addManifest("acme/app", "1", manifest)] = []byte(manifest)
	ways := []error{unix.EIO, unix.ENOSPC, unix.EMFILE, io.ErrShortWrite}
	rounds := 1 // each operation fails in one of the ways
	if os.Getenv("BERTH_LONG") != "" {
		rounds = len(ways)
	}
	for round := range rounds {
		failed := 0
		for n := 1; ; n++ {
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
		if failed < 60 {
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
		for range 2 {
			for obj, data := range objects {
				pullThroughFault(t, s, obj, data)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func pullThroughFault(t *testing.T, s oci.Source, obj oci.Object, data []byte) {
	t.Helper()
	for try := range 2 {
		got, err := get(t.Context(), s, obj, oci.Range{})
		switch {
		case err == nil && !bytes.Equal(got, data):
			t.Errorf("%d of %d bytes and no error", len(got), len(data))
		case err != nil && try > 0:
			t.Errorf("%d of %d bytes, again: %v", len(got), len(data), err)
		}
		if err == nil {
			return
		}
	}
}
