package cache_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"berth/cache"
	"berth/oci"
)

// image puts a two-level image with n layers into repo and gives its objects:
// index, manifest, then config and layers.
func (h *house) image(repo, tag string, n int) []oci.Object {
	var blobs []oci.Object
	var layers []string
	for i := range n + 1 {
		blobs = append(blobs, h.addBlob(repo, random(uint64(i+1), 10_000*(i+1))))
		if i > 0 {
			layers = append(layers, descriptor(blobs[i]))
		}
	}
	manifest := h.addManifest(repo, "", fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s],"annotations":{"repo":%q}}`,
		descriptor(blobs[0]), strings.Join(layers, ","), repo))
	index := h.addManifest(repo, tag, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s],"annotations":{"tag":%q}}`, indexType, descriptor(manifest), tag))
	return append([]oci.Object{index, manifest}, blobs...)
}

func descriptor(o oci.Object) string { return fmt.Sprintf(`{"digest":%q}`, o.Digest) }

// pull does what a client does: the tag, the manifests, the blobs.
func pull(t testing.TB, s oci.Source, repo, tag string, objects []oci.Object) {
	t.Helper()
	r, err := s.Resolve(t.Context(), repo, tag)
	if err != nil {
		t.Fatalf("resolving %s:%s: %v", repo, tag, err)
	}
	if r.Digest != objects[0].Digest {
		t.Fatalf("%s:%s is %s, want %s", repo, tag, r.Digest, objects[0].Digest)
	}
	for _, o := range objects {
		if got := oci.DigestOf(read(t, s, o)); got != o.Digest {
			t.Fatalf("%v came as %s", o, got)
		}
	}
}

// cost is what one pull asks upstream for.
type cost struct{ heads, manifests, blobs int }

func (h *house) cost(pull func()) cost {
	h.set(func() { h.calls = nil })
	pull()
	return cost{
		heads:     h.count("resolve", 0) + h.count("stat", 0),
		manifests: h.count("open", oci.Manifest),
		blobs:     h.count("open", oci.Blob),
	}
}

// The table of what a pull costs upstream.
func TestCost(t *testing.T) {
	h := newHouse(t, cache.Options{})
	const layers = 3
	objects := h.image("acme/app", "1", layers)
	acme, globex, nobody := h.source("acme", "a"), h.source("globex", "g"), h.source("", "")
	check := func(what string, s oci.Source, want cost) {
		t.Helper()
		if got := h.cost(func() { pull(t, s, "acme/app", "1", objects) }); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	check("cold", acme, cost{heads: 1, manifests: 2, blobs: layers + 1})
	for range 5 {
		check("warm", acme, cost{})
	}
	h.advance(2 * time.Minute)
	check("warm, after tag_ttl", acme, cost{heads: 1})
	h.advance(6 * time.Minute)
	check("warm, after access_ttl", acme, cost{heads: 1})
	check("second organisation", globex, cost{heads: 1})
	check("without a credential", nobody, cost{heads: 1})
	check("another one without a credential", h.source("", ""), cost{})
	check("warm again", acme, cost{})
	h.advance(3 * 24 * time.Hour)
	check("days later", acme, cost{heads: 1})
	check("warm again", acme, cost{})
}

// A moved tag is seen after tag_ttl.
func TestMovedTag(t *testing.T) {
	h := newHouse(t, cache.Options{})
	old := h.image("acme/app", "1", 0)
	s := h.source("acme", "a")
	pull(t, s, "acme/app", "1", old)
	moved := h.addManifest("acme/app", "1", `{"schemaVersion":2,"mediaType":"`+indexType+`","manifests":[]}`)
	pull(t, s, "acme/app", "1", old)
	h.advance(time.Minute)
	pull(t, s, "acme/app", "1", []oci.Object{moved})
}
