package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"testing"

	"berth/oci"
)

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

func manifestThing() *thing {
	return &thing{mediaType: ociManifest, data: []byte(`{"schemaVersion":2,"mediaType":"` + ociManifest + `"}`)}
}

// withManifest puts a manifest behind library/nginx:1.
func withManifest(s *site, th *thing) oci.Digest {
	d := s.fake.put("library/nginx", oci.Manifest, th)
	s.fake.tags["library/nginx:1"] = d
	return d
}

// checkManifest checks everything that clients look at.
func checkManifest(t *testing.T, a answer, d oci.Digest, th *thing) {
	t.Helper()
	a.wants(t, http.StatusOK).
		header(t, "Content-Type", th.mediaType).
		header(t, "Content-Length", strconv.Itoa(len(th.data))).
		header(t, "Docker-Content-Digest", string(d)).
		header(t, "Docker-Distribution-Api-Version", "registry/2.0").
		header(t, "Etag", `"`+string(d)+`"`).
		header(t, "Cache-Control", "private, no-cache").
		header(t, "Oci-Namespace", "").
		header(t, "Warning", "")
	if len(a.Header.Get("X-Request-Id")) != 5 {
		t.Error("no X-Request-Id")
	}
	if a.Request.Method == http.MethodHead {
		a.sends(t, nil)
		return
	}
	a.sends(t, th.data)
}

func TestManifest(t *testing.T) {
	for name, change := range map[string]func(*thing){
		"with the digest": func(*thing) {},
		"with the tag":    func(th *thing) { th.inResolve = true },
		"size not known":  func(th *thing) { th.unknown = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := manifestThing()
			change(th)
			d := withManifest(s, th)
			for _, reference := range []string{"1", string(d)} {
				checkManifest(t, s.get("/v2/nginx/manifests/"+reference), d, th)
				checkManifest(t, s.head("/v2/nginx/manifests/"+reference), d, th)
			}
		})
	}
}

// A HEAD reads the manifest, which tells its type, where GETs are free.
func TestManifest_AsksNoMoreThanItMust(t *testing.T) {
	type step struct {
		head, tag            bool
		resolve, stat, opens int
	}
	for path, steps := range map[string][]step{
		"/v2/docker.io/nginx/manifests/":  {{true, true, 1, 0, 0}, {false, true, 2, 0, 1}, {true, false, 2, 1, 1}, {false, false, 2, 1, 2}},
		"/v2/ghcr.io/acme/app/manifests/": {{true, true, 1, 0, 1}, {false, true, 2, 0, 2}, {true, false, 2, 0, 3}, {false, false, 2, 0, 4}},
	} {
		s := newSite(t, nil)
		d := withManifest(s, manifestThing())
		s.fake.put("acme/app", oci.Manifest, manifestThing())
		s.fake.tags["acme/app:1"] = d
		for _, step := range steps {
			method, reference := http.MethodGet, string(d)
			if step.head {
				method = http.MethodHead
			}
			if step.tag {
				reference = "1"
			}
			s.ask(method, path+reference).wants(t, http.StatusOK)
			if r, st, o := s.fake.count("resolve"), s.fake.count("stat"), s.fake.count("open"); r != step.resolve || st != step.stat || o != step.opens {
				t.Errorf("after %s %s%s: %d resolve, %d stat, %d open", method, path, reference, r, st, o)
			}
		}
	}
}

func TestManifestWithDataIsNotOpened(t *testing.T) {
	s := newSite(t, nil)
	th := manifestThing()
	th.inResolve = true
	withManifest(s, th)
	s.get("/v2/nginx/manifests/1").wants(t, http.StatusOK)
	if s.fake.count("open") != 0 {
		t.Error("bytes that came with the tag were asked for again")
	}
}

func TestManifestHeaders(t *testing.T) {
	s := newSite(t, nil)
	th := manifestThing()
	th.mediaType = ociManifest + "; charset=utf-8"
	d := withManifest(s, th)
	s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Stale, Warning: "stale \"copy\"\r\nX-Evil: 1 \\ end"}
	a := s.get("/v2/library/nginx/manifests/1?ns=docker.io").wants(t, http.StatusOK)
	a.header(t, "Content-Type", ociManifest)
	a.header(t, "Oci-Namespace", "docker.io")
	a.header(t, "Warning", `299 - "stale 'copy' X-Evil: 1 / end"`)
	a.header(t, "X-Evil", "")
	s.get("/v2/nginx/manifests/1", "If-None-Match", `"`+string(d)+`"`).wants(t, http.StatusNotModified).sends(t, nil)
	s.head("/v2/nginx/manifests/1", "If-None-Match", `"`+string(d)+`"`).wants(t, http.StatusNotModified).sends(t, nil).header(t, "Content-Length", "")
	s.head("/v2/nginx/manifests/1", "If-None-Match", `"other", W/"`+string(d)+`"`).wants(t, http.StatusNotModified)
	s.head("/v2/nginx/manifests/1", "If-None-Match", `"other"`).wants(t, http.StatusOK)
	s.get("/v2/nginx/manifests/1", "Range", "bytes=0-0").wants(t, http.StatusPartialContent).sends(t, []byte("{"))
	if got := s.value("berth_requests_total", "result", "stale"); got != 6 {
		t.Errorf("%v stale answers counted", got)
	}
}

func TestManifestBytesOutweighTheTag(t *testing.T) {
	s := newSite(t, nil)
	withManifest(s, manifestThing())
	s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Revalidated}
	s.fake.outcome["open"] = oci.Outcome{Result: oci.Hit}
	s.get("/v2/nginx/manifests/1").wants(t, http.StatusOK)
	s.fake.outcome["open"] = oci.Outcome{Result: oci.Fill}
	s.get("/v2/nginx/manifests/1").wants(t, http.StatusOK)
	for _, result := range []string{"revalidated", "fill"} {
		if got := s.value("berth_requests_total", "organisation", "-", "registry", "docker.io", "kind", "manifest", "result", result); got != 1 {
			t.Errorf("%v answers counted as %s", got, result)
		}
	}
}

// A manifest is read before its header leaves, so every failure is told.
func TestManifestFailsCleanly(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*thing)
		message string
	}{
		"reading fails": {func(th *thing) { th.failWith = errors.New("boom") }, "failed inside the proxy"},
		"corrupt":       {func(th *thing) { th.failWith = &oci.Error{Class: oci.Corrupt, Message: "wrong digest"} }, "wrong digest"},
		"no bytes":      {func(th *thing) { th.data = nil }, "failed inside the proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := manifestThing()
			c.change(th)
			withManifest(s, th)
			a := s.get("/v2/nginx/manifests/1")
			a.refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, c.message)
			a.header(t, "Retry-After", "5").header(t, "Docker-Content-Digest", "").header(t, "Etag", "")
		})
	}
}

func TestManifestOfTheLargestSize(t *testing.T) {
	s := newSite(t, nil)
	th := &thing{mediaType: ociManifest, data: pattern(oci.MaxManifest)}
	withManifest(s, th)
	s.get("/v2/nginx/manifests/1").wants(t, http.StatusOK).sends(t, th.data)
}

func TestManifestOf512(t *testing.T) {
	s := newSite(t, nil)
	th := &thing{mediaType: ociManifest, data: bytes.Repeat([]byte("b"), 512)}
	withManifest(s, th)
	s.get("/v2/nginx/manifests/1").wants(t, http.StatusOK).sends(t, th.data)
}
