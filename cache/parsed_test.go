package cache_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/cache"
	"berth/oci"
)

// largeIndex puts an index of n entries into repo.
func (h *house) largeIndex(repo string, n int) oci.Object {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1}`, oci.DigestOf(fmt.Append(nil, i)))
	}
	return h.addManifest(repo, "", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(entries, ",")))
}

// A manifest that memory has no place for is parsed once, and not for each request; one of
// which only the type and the size are asked for is not even read again.
func TestCache_ParsesAManifestOnce(t *testing.T) {
	const entries = 5000
	h := newHouse(t, cache.Options{HotBytes: 1})
	s, index := h.source("acme", "a"), h.largeIndex("acme/app", entries)
	size := len(read(t, s, index))
	h.cache.Settle() // it is kept
	for name, use := range map[string]func() error{
		"opened": func() error {
			c, err := s.Open(t.Context(), index, oci.Range{})
			if err == nil && (c.Result != oci.Hit || c.MediaType != indexType || len(c.Data) != size) {
				err = fmt.Errorf("%s, %s, %d bytes", c.Result, c.MediaType, len(c.Data))
			}
			return err
		},
		"looked at": func() error {
			c, err := s.Stat(t.Context(), index)
			if err == nil && (c.Result != oci.Hit || c.MediaType != indexType || c.Size != int64(size)) {
				err = fmt.Errorf("%s, %s, %d bytes", c.Result, c.MediaType, c.Size)
			}
			return err
		},
	} {
		const times = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			if err := use(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.Mallocs - before.Mallocs) / times; n > entries/5 {
			t.Errorf("%s: %d objects are made for %d entries", name, n, entries)
		}
		if n := (after.TotalAlloc - before.TotalAlloc) / times; name == "looked at" && n > uint64(size)/5 {
			t.Errorf("%s: %d bytes are made, of a manifest with %d", name, n, size)
		}
	}
}

// A blob that is asked for as a manifest, and is none, is parsed once too.
func TestCache_ParsesOnceWhatIsNoManifest(t *testing.T) {
	const entries = 5000
	h := newHouse(t, cache.Options{HotBytes: 1})
	s := h.source("acme", "a")
	text := `{"schemaVersion":2,"layers":[` + strings.Repeat(`{"size":1},`, entries) + `{}],"layers":[]}`
	blob := h.addBlob("acme/app", []byte(text))
	read(t, s, blob)
	h.settle() // it is kept
	manifest := h.addManifest("acme/app", "", text)
	var before, after runtime.MemStats
	for i := range 2 {
		runtime.ReadMemStats(&before)
		if _, err := s.Open(t.Context(), manifest, oci.Range{}); oci.ClassOf(err) != oci.UpstreamError || !strings.Contains(err.Error(), "cannot be used as an image manifest") {
			t.Fatalf("it was opened: %v", err)
		}
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; i > 0 && n > entries/5 {
			t.Errorf("%d objects are made for %d entries", n, entries)
		}
	}
}

// What a manifest lists is remembered once, however much it is.
func TestCache_ReadsOnceWhatAManifestLists(t *testing.T) {
	const entries = 20_000 // more than is remembered in all
	h := newHouse(t, cache.Options{})
	s, index := h.source("acme", "a"), h.largeIndex("acme/app", entries)
	var before, after runtime.MemStats
	for i := range 3 {
		h.advance(6 * time.Minute) // so that the registry is asked, and the answer is no plain hit
		runtime.ReadMemStats(&before)
		read(t, s, index)
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; i > 1 && n > entries/5 { // what is listed was renewed the second time
			t.Errorf("%d objects are made for %d entries", n, entries)
		}
	}
}

// What is known of a manifest is no word for a file that has become another.
func TestCache_ParsedManifestThatRots(t *testing.T) {
	for how, spoil := range damage {
		h := newHouse(t, cache.Options{HotBytes: 1})
		s, index := h.source("acme", "a"), h.largeIndex("acme/app", 10)
		data := read(t, s, index)
		h.cache.Settle()
		path := h.kept(h.cache.Dir(), index)
		if err := spoil(path, data); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Stat(t.Context(), index); err != nil || c.Size != int64(len(data)) {
			t.Errorf("%s: its size is told as %v, %v", how, c, err)
		}
		if got := read(t, s, index); !bytes.Equal(got, data) {
			t.Errorf("%s: wrong bytes", how)
		}
		h.cache.Settle()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: the disk has %d bytes, %v", how, len(got), err)
		}
	}
}
