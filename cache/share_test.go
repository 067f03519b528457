package cache_test

import (
	"bytes"
	"io"
	"os"
	"testing"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/oci"
)

// An organisation's own registry that announces a blob as large as the cache
// has nothing evicted by that; the blob goes past the cache. The platform's may
// fill it, and several of its own share one share.
func TestOwnRegistryEvictsNothingByAHeader(t *testing.T) {
	const size = 64 * mib
	h := newHouse(t, cache.Options{MaxSize: size})
	kept := h.addBlob("acme/app", random(60, 20*mib))
	acme := h.source("acme", "a")
	read(t, acme, kept)
	fetched := h.bytesSent()

	evil := newOrigin(t)
	gate := make(chan struct{})
	evil.body = func(_ call, b []byte) io.Reader {
		return &gated{r: bytes.NewReader(b), open: gate, upTo: 1000, ctx: t.Context()}
	}
	through := h.cache.Through(evil.own())
	var open []*oci.Content
	for i := range 8 {
		blob := evil.addBlob("evil/app", random(uint64(61+i), 7*mib))
		c, err := through.Open(t.Context(), blob, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if past, want := c.Result == oci.Pass, i > 0; past != want {
			t.Errorf("download %d goes past the cache: %v", i, past)
		}
	}
	read(t, acme, kept)
	if h.bytesSent() != fetched {
		t.Error("it was evicted for bytes that have not come")
	}
	close(gate)
	for _, c := range open {
		if _, err := io.Copy(io.Discard, c.Body); err != nil {
			t.Error(err)
		}
		if err := c.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	// The share is free again.
	late := evil.addBlob("evil/app", random(80, 7*mib))
	c, err := through.Open(t.Context(), late, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Body.Close() }()
	if c.Result != oci.Fill {
		t.Errorf("the next download: %s", c.Result)
	}
}

// What is left of such downloads is gone on with within the share too: a beginning is
// enough to have something left.
func TestOwnRegistryEvictsNothingByWhatIsLeft(t *testing.T) {
	h := newHouse(t, cache.Options{MaxSize: 64 * mib})
	kept := h.addBlob("acme/app", random(60, 20*mib))
	acme := h.source("acme", "a")
	read(t, acme, kept)
	fetched := h.bytesSent()

	evil := newOrigin(t)
	through := h.cache.Through(evil.own())
	blobs := make([]oci.Object, 7)
	for i := range blobs {
		blobs[i] = evil.addBlob("evil/app", random(uint64(61+i), 7*mib))
		evil.set(func() {
			evil.body = func(_ call, b []byte) io.Reader { return bytes.NewReader(b[:min(len(b), mib+1000)]) }
			evil.fault = func(c call) error { // the first answer, and no other
				if c.rng.Start > 0 {
					return &oci.Error{Class: oci.Policy, Message: "not now"}
				}
				return nil
			}
		})
		if _, err := get(t.Context(), through, blobs[i], oci.Range{}); err == nil {
			t.Fatal("all of it came")
		}
	}
	gate := make(chan struct{})
	evil.set(func() {
		evil.fault = nil
		evil.body = func(_ call, b []byte) io.Reader {
			return &gated{r: bytes.NewReader(b), open: gate, upTo: 1000, ctx: t.Context()}
		}
	})
	var open []*oci.Content
	for i, blob := range blobs {
		c, err := through.Open(t.Context(), blob, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if past, want := c.Result == oci.Pass, i > 0; past != want {
			t.Errorf("download %d goes past the cache: %v", i, past)
		}
	}
	read(t, acme, kept)
	if h.bytesSent() != fetched {
		t.Error("it was evicted for bytes that have not come")
	}
	close(gate)
	for _, c := range open {
		if _, err := io.Copy(io.Discard, c.Body); err != nil {
			t.Error(err)
		}
		if err := c.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever pulls one small thing after the other does not push what others pull out of
// memory, and whoever is told 404 again and again does not have others' asked again.
func TestShare_OthersMemoryStays(t *testing.T) {
	h := newHouse(t, cache.Options{Dir: ocitest.MemoryDir(t), HotBytes: 64 << 10})
	d := h.addManifest("acme/app", "v1", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	missing := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: oci.DigestOf([]byte("not there"))}
	acme, globex := h.source("acme", "a"), h.source("globex", "g")
	read(t, acme, d)
	for i := range 200 {
		read(t, globex, h.addBlob("globex/app", random(uint64(i), 1000)))
	}
	if _, err := get(t.Context(), acme, missing, oci.Range{}); oci.ClassOf(err) != oci.NotFound {
		t.Fatal(err)
	}
	asked := h.total()
	for i := range 9000 {
		none := missing
		none.Digest = oci.DigestOf([]byte{byte(i), byte(i >> 8)})
		if _, err := globex.Stat(t.Context(), none); err == nil {
			t.Fatal("it is there")
		}
	}
	if got := h.total() - asked; got != 9000 {
		t.Errorf("globex's questions are %d", got)
	}
	asked = h.total()
	if _, err := get(t.Context(), acme, missing, oci.Range{}); oci.ClassOf(err) != oci.NotFound || h.total() != asked {
		t.Errorf("%v, after %d requests", err, h.total()-asked)
	}
	h.settle()
	h.cache.Settle()
	if err := os.RemoveAll(h.cache.Dir() + "/blobs"); err != nil { // so that only memory can have it
		t.Fatal(err)
	}
	read(t, acme, d)
	if h.total() != asked {
		t.Errorf("acme's manifest went for what globex pulled: %d requests", h.total()-asked)
	}
}

// own is a registry that globex has brought.
func (o *origin) own() cache.Upstream {
	return cache.Upstream{
		Spec: &registry.Spec{Name: "evil.example", Origin: oci.Origin{Owner: "globex", Scheme: "https", Host: "evil.example"}},
		As:   o.as("globex", "e"), Shared: o.as("", ""), Organisation: "globex",
	}
}

// What such a registry does not announce is charged as it comes: one blob, or several
// together. What is more than the share ends the pull that finds out, and the next goes
// past the cache.
func TestShare_UnknownLength(t *testing.T) {
	for name, sizes := range map[string][]int{"one blob": {56 * mib}, "two at once": {5 * mib, 6 * mib}} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, cache.Options{MaxSize: 64 * mib, Dir: ocitest.MemoryDir(t)})
			kept := h.addBlob("acme/app", random(60, 40*mib))
			acme := h.source("acme", "a")
			read(t, acme, kept)
			h.settle() // else there may be no room, and what is sent goes past the cache at once
			h.cache.Settle()
			fetched := h.bytesSent()

			evil := newOrigin(t)
			evil.noLength, evil.noRange = true, true
			through := h.cache.Through(evil.own())
			// All but the last byte comes to those who cannot know that there is no more.
			gates := make([]chan struct{}, len(sizes))
			over := 0
			for i, size := range sizes {
				gates[i] = make(chan struct{})
				evil.set(func() {
					evil.body = func(_ call, b []byte) io.Reader {
						return &gated{r: bytes.NewReader(b), open: gates[i], upTo: size - 1, ctx: t.Context()}
					}
				})
				c, err := through.Open(t.Context(), evil.addBlob("evil/app", random(uint64(61+i), size)), oci.Range{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err = io.CopyN(io.Discard, c.Body, int64(size-2)); oci.ClassOf(err) == oci.Disk {
					over++
				} else if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Body.Close() }()
			}
			if over != 1 {
				t.Errorf("%d downloads were more than the share", over)
			}
			for _, g := range gates {
				close(g)
			}
			h.settle()
			read(t, acme, kept)
			if h.bytesSent() != fetched {
				t.Error("acme's was evicted for it")
			}
			late := evil.addBlob("evil/app", random(uint64(60+len(sizes)), sizes[len(sizes)-1]))
			got, err := get(t.Context(), through, late, oci.Range{})
			if err != nil || len(got) != sizes[len(sizes)-1] {
				t.Errorf("the next pull: %d bytes, %v", len(got), err)
			}
		})
	}
}
