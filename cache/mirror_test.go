package cache_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"berth/cache"
	"berth/internal/registry"
	"berth/oci"
)

// mirrored is a house whose registry has two mirrors, of which the first is down.
func mirrored(t *testing.T, organisation string) (h *house, s oci.Source, m *origin) {
	t.Helper()
	h = newHouse(t, cache.Options{})
	m = newOrigin(t)
	m.now = m.now.Add(time.Hour) // its clock says nothing either
	dead := newOrigin(t)
	dead.fault = down(oci.Unreachable)
	u := h.upstream(organisation, "secret of "+organisation)
	u.Mirrors = []oci.Source{dead.as("", ""), m.as("", "")}
	u.Spec.OnNotFound = registry.Keep // which is about what is here
	return h, h.cache.Through(u), m
}

// The registry is in trouble: bytes that it has shown to a caller may come from a
// mirror, and nothing else.
func TestMirror(t *testing.T) {
	for _, class := range []oci.Class{oci.Unreachable, oci.Timeout, oci.UpstreamError, oci.RateLimited} {
		h, acme, m := mirrored(t, "acme")
		data := random(1, 6*mib)
		blob := h.addBlob("acme/app", data)
		m.addBlob("acme/app", data)
		unseen := h.addBlob("acme/app", random(2, 1000))
		m.addBlob("acme/app", random(2, 1000))
		m.addManifest("acme/app", "1", `{"schemaVersion":2,"manifests":[]}`)
		if _, err := acme.Stat(t.Context(), blob); err != nil {
			t.Fatal(err)
		}
		if m.total() != 0 {
			t.Errorf("%s: a mirror was asked while the registry was fine", class)
		}
		h.set(func() { h.fault = down(class) })
		if got := read(t, acme, blob); !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes", class, len(got))
		}
		if m.count("open", oci.Blob) == 0 {
			t.Errorf("%s: the mirror was not asked", class)
		}
		asked := m.total()
		if _, err := acme.Open(t.Context(), unseen, oci.Range{}); oci.ClassOf(err) != class {
			t.Errorf("%s: what the registry has never shown: %v", class, err)
		}
		if _, err := acme.Resolve(t.Context(), "acme/app", "1"); oci.ClassOf(err) != class {
			t.Errorf("%s: a tag: %v", class, err)
		}
		if _, err := h.source("globex", "g").Open(t.Context(), blob, oci.Range{}); oci.ClassOf(err) != class {
			t.Errorf("%s: a stranger: %v", class, err)
		}
		if n := m.total(); n != asked {
			t.Errorf("%s: the mirror was asked %d times for what is not its to give", class, n-asked)
		}
		h.advance(10 * time.Minute)
		h.set(func() { h.fault = nil; h.private["acme/app"] = []string{"globex"} })
		if _, err := acme.Open(t.Context(), blob, oci.Range{}); oci.ClassOf(err) != oci.Denied {
			t.Errorf("%s: a mirror gave a right: %v", class, err)
		}
	}
}

// What the registry said was not understood: a mirror stands in for as long as the
// proof does, which is no longer than doubt.
func TestMirror_InDoubt(t *testing.T) {
	h, acme, m := mirrored(t, "acme")
	data := random(1, 1000)
	blob := h.addBlob("acme/app", data)
	m.addBlob("acme/app", data)
	if _, err := acme.Stat(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	h.set(func() {
		h.fault = func(call) error {
			return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: "a login page"}
		}
	})
	h.advance(61 * time.Minute)
	if _, err := acme.Open(t.Context(), blob, oci.Range{}); oci.ClassOf(err) != oci.UpstreamError || m.total() > 0 {
		t.Errorf("after doubt: %v, %d requests to the mirror", err, m.total())
	}
	h.set(func() { h.fault = nil })
	if _, err := acme.Stat(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	h.set(func() {
		h.fault = func(call) error {
			return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: "a login page"}
		}
	})
	h.advance(30 * time.Minute)
	if got := read(t, acme, blob); !bytes.Equal(got, data) {
		t.Errorf("within doubt: %d bytes", len(got))
	}
}

// A refusal is the registry's last word: no mirror is asked.
func TestMirrorAndDenials(t *testing.T) {
	for _, class := range []oci.Class{oci.Denied, oci.Unauthorized, oci.NoCredential, oci.NotFound} {
		h, acme, m := mirrored(t, "acme")
		blob := h.addBlob("acme/app", random(1, 1000))
		m.addBlob("acme/app", random(1, 1000))
		if _, err := acme.Stat(t.Context(), blob); err != nil {
			t.Fatal(err)
		}
		h.set(func() { h.fault = down(class) })
		if _, err := acme.Open(t.Context(), blob, oci.Range{}); oci.ClassOf(err) != class || m.total() > 0 {
			t.Errorf("%s: %v, %d requests to the mirror", class, err, m.total())
		}
	}
}

// Docker Hub's pull limit stops GETs of manifests: then a HEAD shows who may have
// them, and a mirror has the bytes.
func TestMirrorAndPullLimit(t *testing.T) {
	h, acme, m := mirrored(t, "acme")
	const data = `{"schemaVersion":2,"manifests":[]}`
	index := h.addManifest("acme/app", "1", data)
	m.addManifest("acme/app", "1", data)
	h.set(func() {
		h.private["acme/app"] = []string{"acme"}
		h.fault = func(c call) error {
			if c.op == "open" && c.kind == oci.Manifest {
				return &oci.Error{Class: oci.RateLimited, Message: "the pull limit"}
			}
			return nil
		}
	})
	if got := read(t, acme, index); string(got) != data {
		t.Errorf("%q", got)
	}
	if n := m.count("open", oci.Manifest); n != 1 {
		t.Errorf("the mirror was asked %d times", n)
	}
	if _, err := h.source("globex", "g").Open(t.Context(), index, oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Errorf("a stranger: %v", err)
	}
}

// The registry goes in the middle of a download: a mirror has the rest.
func TestMirrorInMidDownload(t *testing.T) {
	h, acme, m := mirrored(t, "acme")
	data := random(1, 40*mib)
	blob := h.addBlob("acme/app", data)
	m.addBlob("acme/app", data)
	h.body = func(_ call, b []byte) io.Reader {
		h.set(func() { h.fault = down(oci.Unreachable) })
		return bytes.NewReader(b[:len(b)/2])
	}
	if got := read(t, acme, blob); !bytes.Equal(got, data) {
		t.Errorf("%d bytes", len(got))
	}
	if m.bytesSent() == 0 || h.bytesSent() == 0 {
		t.Errorf("%d bytes from the registry, %d from the mirror", h.bytesSent(), m.bytesSent())
	}
}

// A mirror that lies is found out by the digest.
func TestMirrorThatLies(t *testing.T) {
	h, acme, m := mirrored(t, "acme")
	data := random(1, 6*mib)
	blob := h.addBlob("acme/app", data)
	m.set(func() {
		wrong := bytes.Clone(data)
		wrong[5*mib] ^= 1
		m.objects[blob] = wrong
	})
	if _, err := acme.Stat(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	h.set(func() { h.fault = down(oci.Unreachable) })
	if _, err := get(t.Context(), acme, blob, oci.Range{}); err == nil {
		t.Error("wrong bytes ended well")
	}
	h.set(func() { h.fault = nil })
	if got := read(t, acme, blob); !bytes.Equal(got, data) {
		t.Errorf("%d bytes afterwards", len(got))
	}
}

// What a mirror gives while the registry is in trouble says so, as a kept copy does.
func TestMirror_Warns(t *testing.T) {
	h, acme, m := mirrored(t, "acme")
	const index = `{"schemaVersion":2,"manifests":[]}`
	blob, manifest := h.addBlob("acme/app", random(1, 6*mib)), h.addManifest("acme/app", "", index)
	m.addBlob("acme/app", random(1, 6*mib))
	m.addManifest("acme/app", "", index)
	for _, o := range []oci.Object{blob, manifest} {
		if _, err := acme.Stat(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	h.set(func() { h.fault = down(oci.Unreachable) })
	for _, o := range []oci.Object{blob, manifest} {
		c, err := acme.Open(t.Context(), o, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if c.Warning == "" {
			t.Errorf("%s: no warning", o.Kind)
		}
		c.Close() // only the outcome counts
	}
}
