package cache_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"berth/cache"
	"berth/internal/registry"
	"berth/oci"
)

func down(class oci.Class) func(call) error {
	return func(call) error { return &oci.Error{Class: class, Message: "upstream is in trouble"} }
}

// Upstream gone: a cached image still pulls for whoever had proven access, and
// for nobody else.
func TestUpstreamGone(t *testing.T) {
	for _, class := range []oci.Class{oci.Unreachable, oci.Timeout, oci.UpstreamError, oci.RateLimited} {
		t.Run(class.String(), func(t *testing.T) {
			h := newHouse(t, cache.Options{})
			h.private["acme/app"] = []string{"acme"}
			objects := h.image("acme/app", "1", 2)
			acme := h.source("acme", "a")
			pull(t, acme, "acme/app", "1", objects)
			h.fault = down(class)
			h.advance(59 * time.Minute) // within doubt, which holds where there is a limit
			pull(t, acme, "acme/app", "1", objects)
			if c, err := acme.Stat(t.Context(), objects[0]); err != nil || c.Result != oci.Stale || c.Warning == "" {
				t.Errorf("stale: %+v, %v", c, err)
			}
			for name, s := range map[string]oci.Source{
				"globex":                h.source("globex", "g"),
				"nobody":                h.source("", ""),
				"acme, with a new key":  h.source("acme", "a2"),
				"acme's key as another": h.source("evil", "a"),
			} {
				if _, err := s.Resolve(t.Context(), "acme/app", "1"); oci.ClassOf(err) != class {
					t.Errorf("%s resolves: %v", name, err)
				}
				for _, o := range objects {
					if _, err := s.Open(t.Context(), o, oci.Range{}); oci.ClassOf(err) != class {
						t.Errorf("%s opens %v: %v", name, o, err)
					}
				}
			}
			h.advance(24 * time.Hour)
			if _, err := acme.Open(t.Context(), objects[2], oci.Range{}); oci.ClassOf(err) != class {
				t.Errorf("after grace: %v", err)
			}
		})
	}
}

// Grace and tags survive a restart; a denial does too.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	start := func() func() {
		c, err := cache.New(cache.Options{Dir: dir, Now: h.clock})
		if err != nil {
			t.Fatal(err)
		}
		h.cache = c
		return func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	stop := start()
	objects := h.image("acme/app", "1", 1)
	pull(t, h.source("acme", "a"), "acme/app", "1", objects)
	pull(t, h.source("globex", "g"), "acme/app", "1", objects)
	h.private["acme/app"] = []string{"acme"}
	h.advance(10 * time.Minute)
	if _, err := h.source("globex", "g").Open(t.Context(), objects[2], oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Fatalf("globex: %v", err)
	}
	stop()
	h.fault = down(oci.Unreachable)
	stop = start()
	defer func() { stop() }()
	pull(t, h.source("acme", "a"), "acme/app", "1", objects)
	if _, err := h.source("globex", "g").Open(t.Context(), objects[2], oci.Range{}); err == nil {
		t.Error("globex: a restart revived its proof")
	}
	h.fault = nil
	got := h.cost(func() { pull(t, h.source("acme", "a"), "acme/app", "1", objects) })
	if want := (cost{heads: 1}); got != want {
		t.Errorf("the first pull after a restart costs %+v, want %+v", got, want)
	}
}

// A denial is the answer, whatever is cached, and it ends grace.
func TestDenial(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("acme/app", "1", 1)
	acme := h.source("acme", "a")
	pull(t, acme, "acme/app", "1", objects)
	h.advance(6 * time.Minute)
	h.set(func() { h.private["acme/app"] = []string{} })
	if _, err := acme.Open(t.Context(), objects[2], oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Fatalf("after the denial: %v", err)
	}
	h.fault = down(oci.Unreachable)
	for _, o := range objects {
		if _, err := acme.Open(t.Context(), o, oci.Range{}); err == nil {
			t.Errorf("%v was served in grace after a denial", o)
		}
	}
	if _, err := acme.Resolve(t.Context(), "acme/app", "1"); err == nil {
		t.Error("the tag was served in grace after a denial")
	}
}

// A 404 for something seen there before denies; a mistyped tag costs nothing.
func TestNotFound(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("acme/app", "1", 1)
	acme := h.source("acme", "a")
	pull(t, acme, "acme/app", "1", objects)
	for range 3 {
		if _, err := acme.Resolve(t.Context(), "acme/app", "latset"); oci.ClassOf(err) != oci.NotFound {
			t.Fatalf("mistyped: %v", err)
		}
	}
	if n := h.count("resolve", 0); n != 2 {
		t.Errorf("%d requests for three mistyped pulls and one right one", n)
	}
	h.set(func() { h.fault = down(oci.Unreachable) })
	h.advance(6 * time.Minute)
	pull(t, acme, "acme/app", "1", objects) // grace is intact
	h.set(func() { h.fault = nil; delete(h.objects, objects[2]) })
	if _, err := acme.Open(t.Context(), objects[2], oci.Range{}); oci.ClassOf(err) != oci.NotFound {
		t.Fatalf("deleted: %v", err)
	}
	h.set(func() { h.fault = down(oci.Unreachable) })
	if _, err := acme.Open(t.Context(), objects[3], oci.Range{}); err == nil {
		t.Error("grace outlived the 404 of something that was there")
	}
}

// What was shown is remembered for longer than grace: a 404 about it denies however long
// ago that was, also what was proven since by another object.
func TestNotFound_OfWhatWasShownLongAgo(t *testing.T) {
	for name, op := range map[string]string{"tag": "resolve", "object": "stat"} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, cache.Options{})
			objects := h.image("acme/app", "1", 1)
			acme := h.source("acme", "a")
			pull(t, acme, "acme/app", "1", objects)
			h.advance(25 * time.Hour)
			if _, err := get(t.Context(), acme, objects[3], oci.Range{}); err != nil {
				t.Fatal(err)
			}
			h.advance(6 * time.Minute)
			h.set(func() {
				h.fault = func(c call) error {
					if c.op == op {
						return &oci.Error{Class: oci.NotFound, Message: "not found"}
					}
					return &oci.Error{Class: oci.Unreachable, Message: "nobody answers"}
				}
			})
			var err error
			if op == "resolve" {
				_, err = acme.Resolve(t.Context(), "acme/app", "1")
			} else {
				_, err = acme.Open(t.Context(), objects[2], oci.Range{})
			}
			if oci.ClassOf(err) != oci.NotFound {
				t.Fatalf("deleted: %v", err)
			}
			h.set(func() { h.fault = down(oci.Unreachable) })
			if _, err := acme.Open(t.Context(), objects[3], oci.Range{}); err == nil {
				t.Error("grace outlived the 404 of something that was there")
			}
		})
	}
}

// A slow 2xx that was asked before a denial and lands after it proves nothing.
func TestSlowProofLosesAgainstDenial(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("acme/app", "1", 0)
	acme := h.source("acme", "a")
	pull(t, acme, "acme/app", "1", objects)
	h.advance(6 * time.Minute)
	blob, manifest := objects[2], objects[1]
	h.after = func(c call) {
		if c.op != "stat" || c.ref != blob.Digest.String() {
			return
		}
		// While the answer for the blob is on its way, the manifest is denied.
		h.advance(time.Second)
		h.set(func() { h.private["acme/app"] = []string{} })
		if _, err := acme.Open(t.Context(), manifest, oci.Range{}); oci.ClassOf(err) != oci.Denied {
			t.Errorf("the manifest: %v", err)
		}
	}
	if _, err := acme.Open(t.Context(), blob, oci.Range{}); !oci.ClassOf(err).Refuses() {
		t.Errorf("the blob: %v", err)
	}
}

// What another origin delivered is not there: a registry that claims a digest
// must deliver it.
func TestProvenance(t *testing.T) {
	h := newHouse(t, cache.Options{})
	secret := random(1, 100_000)
	h.private["acme/app"] = []string{"acme"}
	obj := h.addBlob("acme/app", secret)
	if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, secret) {
		t.Fatal("wrong bytes")
	}
	liar := newOrigin(t)
	lie := liar.addBlob("evil/app", []byte("something else"))
	lie.Digest = obj.Digest
	liar.objects[lie] = []byte("something else") // HEAD says 200, the bytes are others
	evil := h.cache.Through(cache.Upstream{
		Spec: &registry.Spec{Name: "evil.example", Origin: oci.Origin{Owner: "evil", Scheme: "https", Host: "registry.example"}},
		As:   liar.as("evil", "e"), Shared: liar.as("", ""),
	})
	if got, err := get(t.Context(), evil, lie, oci.Range{}); oci.ClassOf(err) != oci.Corrupt {
		t.Errorf("the liar's digest: %d bytes, %v", len(got), err)
	}
	// Under its own repository at the same registry the digest is not there either.
	if _, err := h.source("evil", "e").Open(t.Context(), oci.Object{Repo: "evil/app", Kind: oci.Blob, Digest: obj.Digest}, oci.Range{}); oci.ClassOf(err) != oci.NotFound {
		t.Errorf("under a foreign repository: %v", err)
	}
	// Nor as a manifest, which it is not.
	if _, err := h.source("acme", "a").Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: obj.Digest}, oci.Range{}); err == nil {
		t.Error("a blob was served as a manifest")
	}
}

// A second origin that delivers the same bytes in full gets a hard link.
func TestSecondOriginLinks(t *testing.T) {
	dir := t.TempDir()
	h := newHouse(t, cache.Options{Dir: dir})
	data := random(2, 5*mib)
	obj := h.addBlob("acme/app", data)
	read(t, h.source("acme", "a"), obj)
	published(t, dir, obj, 1)
	other := h.upstream("acme", "a")
	other.Spec.Origin.Host = "mirror.example"
	before := h.bytesSent()
	if got := read(t, h.cache.Through(other), obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
	if h.bytesSent() != before+int64(len(data)) {
		t.Error("the second origin did not have to deliver")
	}
	// The new copy is there first, and then takes the place of the old one.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !oneFile(t, published(t, dir, obj, 2)); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("there are two copies")
		}
	}
}

func oneFile(t *testing.T, paths []string) bool {
	t.Helper()
	one, err1 := os.Stat(paths[0])
	two, err2 := os.Stat(paths[1])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return os.SameFile(one, two)
}

// The shared principal stands in for an organisation whose credential was refused or
// whose own outcome is unknown, never after a denial of the repository.
func TestFallback(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("library/nginx", "1", 1)
	u := h.upstream("acme", "a")
	u.Spec.UniformView = true
	own := func(class oci.Class) func(call) error {
		return func(c call) error {
			if c.principal.Organisation == "acme" {
				return &oci.Error{Class: class, Message: "acme's account is in trouble"}
			}
			return nil
		}
	}
	h.fault = own(oci.Unauthorized)
	if _, err := h.cache.Through(u).Resolve(t.Context(), "library/nginx", "1"); oci.ClassOf(err) != oci.Unauthorized {
		t.Errorf("without anonymous_fallback: %v", err)
	}
	u.Spec.AnonymousFallback = true
	s := h.cache.Through(u)
	pull(t, s, "library/nginx", "1", objects)
	r, err := s.Resolve(t.Context(), "library/nginx", "1")
	if err != nil || r.Warning == "" {
		t.Errorf("the warning: %+v, %v", r, err)
	}
	h.set(func() { h.fault = own(oci.RateLimited) })
	pull(t, s, "library/nginx", "1", objects)
	h.set(func() { h.fault = own(oci.Denied) })
	if _, err := s.Resolve(t.Context(), "library/nginx", "1"); oci.ClassOf(err) != oci.Denied {
		t.Errorf("after a denial: %v", err)
	}
	h.set(func() { h.fault = own(oci.RateLimited) })
	if _, err := s.Resolve(t.Context(), "library/nginx", "1"); oci.ClassOf(err) != oci.RateLimited {
		t.Errorf("rate limited after a denial: %v", err)
	}
	h.set(func() { h.fault = own(oci.Unauthorized) })
	if _, err := s.Resolve(t.Context(), "library/nginx", "1"); oci.ClassOf(err) != oci.Unauthorized {
		t.Errorf("a refused credential after a denial: %v", err)
	}
}

// What is asked for the shared principal carries nobody's name: its answer, and the
// memory of it, are for everyone without a credential.
func TestSharedViewIsNobody(t *testing.T) {
	h := newHouse(t, cache.Options{})
	objects := h.image("library/nginx", "1", 1)
	acme := h.source("acme", "")
	pull(t, acme, "library/nginx", "1", objects)
	if _, err := acme.Resolve(t.Context(), "library/nginx", "no-such-tag"); oci.ClassOf(err) != oci.NotFound {
		t.Error(err)
	}
	if _, err := acme.List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "library/nginx"}); err != nil {
		t.Error(err)
	}
	h.advance(time.Hour)
	pull(t, acme, "library/nginx", "1", objects)
	for _, c := range h.calls {
		if c.who != "" {
			t.Errorf("%s %s was asked for %q", c.op, c.ref, c.who)
		}
	}
}

// What the registry no longer has is refused, also when another object of the
// repository has been proven since; until it is there again. To whom the repository
// may only be hidden, a 404 says nothing about what is in it.
func TestDeletedUpstream(t *testing.T) {
	h := newHouse(t, cache.Options{})
	gone := h.addManifest("acme/app", "", `{"schemaVersion":2,"layers":[]}`)
	other := h.addManifest("acme/app", "", `{"schemaVersion":2,"config":{},"layers":[]}`)
	data := h.objects[gone]
	s, stranger := h.source("acme", "a"), h.source("globex", "g")
	read(t, s, gone)
	read(t, s, other)
	refused := func(s oci.Source, why string) {
		t.Helper()
		if _, err := get(t.Context(), s, gone, oci.Range{}); oci.ClassOf(err) != oci.NotFound {
			t.Errorf("%s: %v", why, err)
		}
		h.advance(10 * time.Second)
	}
	h.set(func() { delete(h.objects, gone) })
	refused(stranger, "a stranger")
	if c, err := s.Open(t.Context(), gone, oci.Range{}); err != nil || c.Result != oci.Hit {
		t.Errorf("after a stranger's 404: %v", err)
	}
	h.advance(6 * time.Minute)
	refused(s, "deleted")
	read(t, s, other)
	refused(s, "after another object was proven")
	h.set(func() { h.objects[gone] = data })
	read(t, s, gone)
	read(t, s, gone)
}

// However many pulls come while a silent registry is asked in the background,
// one question is all that waits for it.
func TestRenewalIsOneQuestion(t *testing.T) {
	h := newHouse(t, cache.Options{})
	obj := h.addBlob("acme/app", random(35, 1000))
	s := h.source("acme", "a")
	read(t, s, obj)
	h.advance(4*time.Minute + 30*time.Second)
	gate, asked := make(chan struct{}), make(chan struct{}, 1)
	h.set(func() { h.fault = func(call) error { asked <- struct{}{}; <-gate; return nil } })
	before := runtime.NumGoroutine()
	for range 100 {
		read(t, s, obj)
	}
	<-asked
	if more := runtime.NumGoroutine() - before; more > 10 {
		t.Errorf("%d goroutines wait for the answer", more)
	}
	close(gate)
}

// Past four fifths of its life, a proof in use is renewed in the background.
func TestRenewal(t *testing.T) {
	h := newHouse(t, cache.Options{})
	obj := h.addBlob("acme/app", random(3, 300_000))
	s := h.source("acme", "a")
	read(t, s, obj)
	renewed := make(chan struct{}, 1)
	h.set(func() { h.after = func(call) { renewed <- struct{}{} } })
	h.advance(3 * time.Minute)
	read(t, s, obj)
	if n := h.total(); n != 1 {
		t.Errorf("%d requests before four fifths", n)
	}
	h.advance(90 * time.Second)
	read(t, s, obj)
	<-renewed
}

// What one manifest lists is renewed with it up to a bound: whoever pushes one with tens
// of thousands of digests has nobody wait while they are looked up. What is beyond is
// asked about by itself.
func TestRenewal_OfWhatOneManifestLists(t *testing.T) {
	h := newHouse(t, cache.Options{})
	early, late := h.addBlob("acme/app", random(4, 500)), h.addBlob("acme/app", random(5, 600))
	list := descriptor(early)
	for i := range 1500 {
		list += "," + descriptor(oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf([]byte(strconv.Itoa(i)))})
	}
	manifest := h.addManifest("acme/app", "1", fmt.Sprintf(`{"schemaVersion":2,"layers":[%s,%s]}`, list, descriptor(late)))
	s := h.source("acme", "a")
	pull(t, s, "acme/app", "1", []oci.Object{manifest, early, late})
	h.advance(23 * time.Hour)
	read(t, s, manifest) // which is asked about
	h.advance(2 * time.Hour)
	read(t, s, manifest)
	for name, c := range map[string]struct {
		object oci.Object
		asked  int
	}{"among the first": {early, 0}, "beyond the bound": {late, 1}} {
		before := h.total()
		if read(t, s, c.object); h.total()-before != c.asked {
			t.Errorf("a layer %s: %d questions, want %d", name, h.total()-before, c.asked)
		}
	}
}

// A cache that cannot keep anything still serves, verified.
func TestPass(t *testing.T) {
	h := newHouse(t, cache.Options{MaxSize: mib})
	data := random(4, 6*mib)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	h.body = cut(2, 2*mib)
	if got := read(t, s, obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
	if got, err := get(t.Context(), s, obj, oci.Range{Start: 5, Length: 10}); err != nil || len(got) < 10 {
		t.Errorf("a range past the disk: %d bytes, %v", len(got), err)
	}
	h.set(func() { h.body = flip(10) })
	if got, err := get(t.Context(), s, obj, oci.Range{}); err == nil || len(got) >= len(data) {
		t.Errorf("a wrong copy past the disk ended after %d bytes with %v", len(got), err)
	}
	h.set(func() { h.body = nil; h.private["acme/app"] = nil })
	if _, err := s.Open(t.Context(), obj, oci.Range{}); !oci.ClassOf(err).Refuses() {
		t.Errorf("past the disk without rights: %v", err)
	}
}

// A document that could be read in two ways is refused, and one that lies about
// its type is not kept.
func TestManifestTypes(t *testing.T) {
	h := newHouse(t, cache.Options{})
	s := h.source("acme", "a")
	for name, doc := range map[string]string{
		"both":         `{"schemaVersion":2,"manifests":[],"layers":[]}`,
		"no manifest":  `{"hello":"world"}`,
		"no JSON":      `<html>`,
		"empty object": `{}`,
		"schema 1":     `{"schemaVersion":1,"fsLayers":[],"signatures":[]}`,
		"nothing":      `{"schemaVersion":2,"manifests":null,"config":null,"layers":null}`,
		"a key twice":  `{"schemaVersion":2,"layers":[],"layers":[]}`,
		"another case": `{"mediATYpe":"0","layers":[]}`,
		// A browser would show it, at an address that pulls are answered at.
		"a web page": `{"schemaVersion":2,"mediaType":"text/html","layers":[],"x":"<script>"}`,
		"no type":    `{"schemaVersion":2,"mediaType":"application","layers":[]}`,
	} {
		obj := h.addManifest("acme/app", "", doc)
		if _, err := s.Open(t.Context(), obj, oci.Range{}); oci.ClassOf(err) != oci.UpstreamError || oci.AsError(err).Status != http.StatusNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	for doc, want := range map[string]string{
		`{"schemaVersion":2,"manifests":[]}`:          indexType,
		`{"schemaVersion":2,"config":{},"layers":[]}`: "application/vnd.oci.image.manifest.v1+json",
		`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[],"x":1}`: "application/vnd.docker.distribution.manifest.v2+json",
	} {
		obj := h.addManifest("acme/app", "", doc)
		for _, what := range []string{"fetched", "cached"} {
			c, err := s.Open(t.Context(), obj, oci.Range{})
			if err != nil || c.MediaType != want {
				t.Errorf("%s, %s: %+v, %v", doc, what, c, err)
				continue
			}
			c.Close()
		}
	}
}

// published waits until obj lies under n origins: the last byte leaves after
// the digest matched, not after the fsync.
func published(t *testing.T, dir string, obj oci.Object, n int) []string {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		found, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "sha256", "*", obj.Digest.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == n {
			return found
		}
	}
	t.Fatalf("%s was not published under %d origins", obj.Digest, n)
	return nil
}

// That a manifest is there says that what it lists still is, but never that it
// was: anyone may list what he likes.
func TestListingProvesNothing(t *testing.T) {
	h := newHouse(t, cache.Options{})
	secret := h.addBlob("globex/app", random(71, 500))
	read(t, h.source("globex", "g"), secret)
	mine := h.addManifest("acme/app", "1", fmt.Sprintf(`{"schemaVersion":2,"layers":[%s]}`, descriptor(secret)))
	acme := h.source("acme", "a")
	for range 3 {
		pull(t, acme, "acme/app", "1", []oci.Object{mine})
		stolen := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: secret.Digest}
		if data, err := get(t.Context(), acme, stolen, oci.Range{}); oci.ClassOf(err) != oci.NotFound {
			t.Fatalf("acme has %d bytes of globex's: %v", len(data), err)
		}
		h.advance(25 * time.Hour)
	}
}
