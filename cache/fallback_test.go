package cache_test

import (
	"fmt"
	"testing"
	"time"

	"berth/cache"
	"berth/internal/registry"
	"berth/oci"
)

// refusing is a registry that refuses the credentials of organisations with class.
func refusing(class oci.Class, organisations ...string) func(call) error {
	return func(c call) error {
		for _, o := range organisations {
			if c.principal.Organisation == o {
				return &oci.Error{Class: class, Message: o + "'s account is in trouble"}
			}
		}
		return nil
	}
}

// mustNew is open without the Close at the end.
func mustNew(t *testing.T, o cache.Options) *cache.Cache {
	t.Helper()
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func withFallback(h *house, organisation string) cache.Upstream {
	u := h.upstream(organisation, organisation)
	u.Spec.UniformView, u.Spec.AnonymousFallback = true, true
	return u
}

// That a denial was about the credential, and not about the repository, is
// known after a restart as well: a dead token does not stop public images.
func TestFallbackAfterARestart(t *testing.T) {
	for class, served := range map[oci.Class]bool{oci.Unauthorized: true, oci.Denied: false} {
		t.Run(class.String(), func(t *testing.T) {
			h := newHouse(t, cache.Options{})
			obj := h.addManifest("library/nginx", "1", `{"schemaVersion":2,"manifests":[]}`)
			dir := t.TempDir()
			c := mustNew(t, cache.Options{Dir: dir, Now: h.clock})
			read(t, c.Through(withFallback(h, "acme")), obj) // the token is good, and a proof is kept
			h.advance(time.Hour)
			h.set(func() { h.fault = refusing(class, "acme") })
			_, _ = c.Through(withFallback(h, "acme")).Open(t.Context(), obj, oci.Range{}) // now it is not
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, cache.Options{Dir: dir, Now: h.clock})
			h.advance(time.Second)
			h.set(func() { h.fault = refusing(oci.Unauthorized, "acme") })
			_, err := get(t.Context(), c.Through(withFallback(h, "acme")), obj, oci.Range{})
			if (err == nil) != served {
				t.Errorf("after the restart: %v", err)
			}
		})
	}
}

// A real denial after a refused credential is kept through a restart too.
func TestDenialAfterARefusedCredential(t *testing.T) {
	h := newHouse(t, cache.Options{})
	obj := h.addManifest("library/nginx", "1", `{"schemaVersion":2,"manifests":[]}`)
	dir := t.TempDir()
	c := mustNew(t, cache.Options{Dir: dir, Now: h.clock})
	s := c.Through(withFallback(h, "acme"))
	read(t, s, obj)
	for _, class := range []oci.Class{oci.Unauthorized, oci.Denied} {
		h.advance(time.Hour)
		h.set(func() { h.fault = refusing(class, "acme") })
		_, _ = s.Open(t.Context(), obj, oci.Range{})
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, cache.Options{Dir: dir, Now: h.clock})
	h.advance(time.Second)
	for _, class := range []oci.Class{oci.Unauthorized, oci.Unreachable} {
		h.set(func() { h.fault = refusing(class, "acme") })
		if _, err := get(t.Context(), c.Through(withFallback(h, "acme")), obj, oci.Range{}); oci.ClassOf(err) != class {
			t.Errorf("the repository was denied, then %v: %v", class, err)
		}
	}
}

// However many repositories others are refused, an organisation's dead token
// does not begin to stop public images.
func TestFallbackWhileOthersAreRefused(t *testing.T) {
	h := newHouse(t, cache.Options{})
	obj := h.addManifest("library/nginx", "1", `{"schemaVersion":2,"manifests":[]}`)
	h.fault = refusing(oci.Unauthorized, "acme", "evil")
	acme, evil := h.cache.Through(withFallback(h, "acme")), h.cache.Through(withFallback(h, "evil"))
	read(t, acme, obj)
	for i := range 9000 {
		if _, err := evil.Resolve(t.Context(), fmt.Sprintf("evil/%d", i), "1"); err == nil {
			t.Fatal("there is no such image")
		}
	}
	h.advance(time.Second)
	if _, err := get(t.Context(), acme, obj, oci.Range{}); err != nil {
		t.Errorf("acme, after others were refused: %v", err)
	}
}

// Where rights differ within a repository the shared principal stands in for nobody.
func TestNoFallbackWhereRightsDiffer(t *testing.T) {
	h := newHouse(t, cache.Options{})
	open := h.addManifest("acme/app", "open", `{"schemaVersion":2,"manifests":[]}`)
	h.addManifest("acme/app", "other", `{"schemaVersion":2,"manifests":[],"annotations":{}}`)
	u := withFallback(h, "acme")
	u.Spec.Access = registry.AccessObject
	s := h.cache.Through(u)
	read(t, h.source("", ""), open)
	h.set(func() { h.fault = refusing(oci.Denied, "acme") })
	if _, err := s.Open(t.Context(), open, oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Fatalf("denied: %v", err)
	}
	for _, class := range []oci.Class{oci.Unreachable, oci.Unauthorized} {
		h.advance(time.Minute)
		h.set(func() { h.fault = refusing(class, "acme") })
		if _, err := get(t.Context(), s, open, oci.Range{}); oci.ClassOf(err) != class {
			t.Errorf("denied before, and now %v: %v", class, err)
		}
		if _, err := s.Resolve(t.Context(), "acme/app", "open"); oci.ClassOf(err) != class {
			t.Errorf("its tag, and now %v: %v", class, err)
		}
	}
}
