package cache_test

import (
	"bytes"
	"io"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/cache"
	"berth/cache/store"
	"berth/internal/ocitest"
	"berth/oci"
)

// Past the disk a client that asks for everything from some byte on gets the last byte
// only of a blob that is right as a whole, also where what is wrong lies before that
// byte: it has it already, and nobody looks at it again.
func TestBypass_OpenRange(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(70, 300_000)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	h.cache.PastTheDisk()
	for _, from := range []int64{1, 100_000, 299_999, 300_000} {
		c, err := s.Open(t.Context(), obj, oci.Range{Start: from})
		if err != nil {
			t.Fatal(err)
		}
		if c.Offset != from || c.End() != c.Size {
			t.Errorf("from %d: it says from %d to %d of %d", from, c.Offset, c.End(), c.Size)
		}
		if got, err := io.ReadAll(c.Body); err != nil || !bytes.Equal(got, data[from:]) {
			t.Errorf("from %d: %d bytes, %v", from, len(got), err)
		}
		_ = c.Body.Close()
	}
	for _, wrong := range []int{0, 50_000, 200_000, 299_999} {
		h.body = func(c call, b []byte) io.Reader {
			if start := int(c.rng.Start); wrong >= start && wrong < start+len(b) {
				b = bytes.Clone(b)
				b[wrong-start] ^= 4
			}
			return bytes.NewReader(b)
		}
		for _, from := range []int64{1, 100_000, 299_999} {
			if got, err := get(t.Context(), s, obj, oci.Range{Start: from}); err == nil || int64(len(got)) >= 300_000-from {
				t.Errorf("byte %d wrong, from %d: %d bytes, %v", wrong, from, len(got), err)
			}
		}
	}
}

// A cut while what is dropped comes, or after it, is mended by asking for the rest.
func TestBypass_OpenRangeAfterACut(t *testing.T) {
	for _, at := range []int{50_000, 200_000} {
		h := newHouse(t, cache.Options{})
		data := random(71, 300_000)
		obj := h.addBlob("acme/app", data)
		h.cache.PastTheDisk()
		h.body = cut(1, at)
		if got, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{Start: 100_000}); err != nil || !bytes.Equal(got, data[100_000:]) {
			t.Errorf("cut at %d: %d bytes, %v", at, len(got), err)
		}
	}
}

// A body that goes on beyond its size ends no answer well: the last byte of that size
// would have left before anybody knew.
func TestBypass_BodyLongerThanItsSize(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(72, 100_000)
	obj := h.addBlob("acme/app", data)
	h.cache.PastTheDisk()
	h.chunk = 1 << 20
	for name, more := range map[string][]byte{"the blob, and more": append(bytes.Clone(data), 'x'), "something else": random(73, 200_000)} {
		h.body = func(call, []byte) io.Reader { return bytes.NewReader(more) }
		got, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{})
		if oci.ClassOf(err) != oci.Corrupt || len(got) >= len(data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// When the disk fails before the first byte, what the registry then has under the digest
// must be of the same size: the beginning of something longer is not the blob.
func TestBypass_LongerBlobAfterTheDiskFailed(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	data := random(74, 6*mib)
	obj := h.addBlob("acme/app", data)
	var broken atomic.Bool
	h.cache = open(t, cache.Failing(cache.Options{Dir: ocitest.MemoryDir(t), Now: h.clock}, func(op store.Op, _ string) error {
		if op == store.OpWrite && broken.Load() {
			return syscall.EIO
		}
		return nil
	}))
	h.noRange = true
	gate := make(chan struct{})
	h.body = func(_ call, b []byte) io.Reader { return &gated{r: bytes.NewReader(b), open: gate, ctx: t.Context()} }
	c, err := h.source("acme", "a").Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	h.set(func() { h.objects[obj] = random(75, 7*mib) })
	broken.Store(true)
	close(gate)
	got, err := io.ReadAll(c.Body)
	if err == nil || len(got) > 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if h.cache.Numbers().Bypassed == 0 {
		t.Error("the disk did not fail")
	}
	_ = c.Body.Close() // it has failed
}
