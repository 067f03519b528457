package cache_test

import (
	"context"
	"testing"
	"time"

	"berth/cache"
	"berth/oci"
)

// perView is a registry that shows each principal another image under the same tag.
type perView struct {
	oci.Source

	means oci.Object
}

func (p perView) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	r, err := p.Source.Resolve(ctx, repo, tag)
	r.Digest = p.means.Digest
	return r, err
}

// What a tag means to one principal it means to no other, asked or remembered, in
// time or in an outage.
func TestTagsAreOfTheirView(t *testing.T) {
	h := newHouse(t, cache.Options{})
	h.addManifest("acme/app", "1", `{"schemaVersion":2,"manifests":[]}`)
	principals := map[string]oci.Source{}
	means := map[string]oci.Object{}
	for _, who := range []string{"acme", "globex", ""} {
		means[who] = h.addManifest("acme/app", "", `{"schemaVersion":2,"manifests":[],"annotations":{"for":"`+who+`"}}`)
		u := h.upstream(who, who)
		u.As = perView{u.As, means[who]}
		u.Shared = perView{u.Shared, means[""]}
		principals[who] = h.cache.Through(u)
	}
	for _, when := range []struct {
		passes time.Duration
		fault  func(call) error
	}{{}, {}, {passes: 2 * time.Minute}, {passes: time.Hour, fault: down(oci.Unreachable)}, {}} {
		h.advance(when.passes)
		h.set(func() { h.fault = when.fault })
		for who, s := range principals {
			r, err := s.Resolve(t.Context(), "acme/app", "1")
			if err != nil || r.Digest != means[who].Digest {
				t.Errorf("%q after %v: %v, %v", who, when.passes, r.Digest, err)
			}
		}
	}
}

// An answer that came for another secret than it was asked with is no proof for
// the first, not even when that is put back. It is asked for again with the other.
func TestAnswerForAnotherSecret(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("acme/app", "1", 1)
	pull(t, h.source("globex", "g"), "acme/app", "1", objects) // the bytes are here
	acme, credential := rotatingAcme(h)
	h.set(func() {
		h.after = func(c call) {
			if c.principal.Organisation == "acme" {
				credential.rotate("b") // and it was "b" that the registry let in
			}
		}
	})
	for _, o := range []oci.Object{objects[0], objects[2]} {
		credential.rotate("a")
		if _, err := acme.Open(t.Context(), o, oci.Range{}); err != nil {
			t.Errorf("%v: %v", o.Kind, err)
		}
	}
	credential.rotate("a")
	if _, err := acme.Resolve(t.Context(), "acme/app", "1"); err != nil {
		t.Errorf("the tag: %v", err)
	}
	h.set(func() { h.fault, h.after = down(oci.Unreachable), nil })
	credential.rotate("a")
	for _, o := range objects {
		if _, err := acme.Open(t.Context(), o, oci.Range{}); oci.ClassOf(err) != oci.Unreachable {
			t.Errorf("secret a, of which nothing is proven: %v", err)
		}
	}
}
