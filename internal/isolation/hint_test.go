package isolation_test

import (
	"net/http"
	"strconv"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream/dialect"
)

// A HEAD of what nobody here has read says what the GET after it says, whatever the
// registry sends the manifest as. Only where each GET is counted is the registry taken
// at its word, until somebody has read it.
func TestManifest_TypeOfTheDocument(t *testing.T) {
	const config = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]`
	typed := func(mediaType, rest string) string {
		return `{"schemaVersion":2,"mediaType":"` + mediaType + `",` + rest + `}`
	}
	for _, kind := range []string{dialect.Generic, dialect.Quay, dialect.DockerHub} {
		for name, test := range map[string]struct{ sent, doc, want string }{
			"Docker sent as OCI":            {oci.MediaTypeManifest, typed(oci.MediaTypeDockerManifest, config), oci.MediaTypeDockerManifest},
			"OCI sent as Docker":            {oci.MediaTypeDockerManifest, typed(oci.MediaTypeManifest, config), oci.MediaTypeManifest},
			"an index sent as a list":       {oci.MediaTypeDockerList, typed(oci.MediaTypeIndex, `"manifests":[]`), oci.MediaTypeIndex},
			"an image sent as an index":     {oci.MediaTypeIndex, typed(oci.MediaTypeManifest, config), oci.MediaTypeManifest},
			"an index sent as an image":     {oci.MediaTypeManifest, typed(oci.MediaTypeIndex, `"manifests":[]`), oci.MediaTypeIndex},
			"without a type of its own":     {oci.MediaTypeIndex, `{"schemaVersion":2,` + config + `}`, oci.MediaTypeManifest},
			"an image with manifests: null": {oci.MediaTypeIndex, typed(oci.MediaTypeManifest, config+`,"manifests":null`), oci.MediaTypeManifest},
			"an artifact sent as an image":  {oci.MediaTypeManifest, typed(oci.MediaTypeArtifact, `"blobs":[]`), oci.MediaTypeArtifact},
			"a type with parameters":        {oci.MediaTypeManifest + "; charset=utf-8", typed(oci.MediaTypeManifest, config), oci.MediaTypeManifest},
			"what nobody else has heard of": {oci.MediaTypeManifest, typed("application/vnd.acme.model.v1+json", `"parts":[]`), "application/vnd.acme.model.v1+json"},
			"sent as it is":                 {oci.MediaTypeManifest, typed(oci.MediaTypeManifest, config), oci.MediaTypeManifest},
		} {
			for _, reference := range []string{"tag", "digest"} {
				w := newWorld(t)
				w.organisation("acme")
				p := w.registry("reg.test", "", ocitest.Options{}, func(p *place) { p.kind = kind })
				d := p.reg.AddManifest("team/app", "v1", test.sent, []byte(test.doc))
				w.start()
				path := "/v2/reg.test/team/app/manifests/v1"
				if reference == "digest" {
					path = "/v2/reg.test/team/app/manifests/" + d.String()
				}
				c := w.as("acme")
				before := p.reg.ManifestGETs()
				first := c.head(path)
				if cost := p.reg.ManifestGETs() - before; kind == dialect.DockerHub && oci.IsManifestType(test.sent) && cost > 0 || cost > 1 {
					t.Errorf("%s: %s by %s: a HEAD costs %d GETs", kind, name, reference, cost)
				}
				get, again := c.get(path), c.head(path)
				if n := p.reg.ManifestGETs() - before; n != 1 {
					t.Errorf("%s: %s by %s: %d GETs", kind, name, reference, n)
				}
				answers := []answer{first, get, again}
				if kind == dialect.DockerHub {
					answers = answers[1:]
				}
				for _, a := range answers {
					if a.status != http.StatusOK || a.header.Get("Content-Type") != test.want || a.header.Get("Docker-Content-Digest") != d.String() || a.header.Get("Content-Length") != strconv.Itoa(len(test.doc)) {
						t.Errorf("%s: %s by %s: %s %v, want %s", kind, name, reference, a, a.header, test.want)
					}
				}
			}
		}
	}
}

// A manifest is no blob, also where the registry does not understand who looks for it
// there; and nothing of that is held against the right to the repository.
func TestBlob_ByTheDigestOfAManifest(t *testing.T) {
	page := ocitest.Fault{Status: http.StatusOK, Body: []byte("<html>"), Header: http.Header{"Content-Type": {"text/html"}}}
	run, wait := ocitest.Overlap(t, 8)
	defer wait()
	for name, test := range map[string]struct {
		fault  ocitest.Fault
		status int
	}{
		"404": {ocitest.Status(404), 404}, "400": {ocitest.Status(400), 404}, "405": {ocitest.Status(405), 404}, "a page": {page, 404},
		"409": {ocitest.Status(409), 404}, "503": {ocitest.Status(503), 503}, "403": {ocitest.Status(403), 403},
	} {
		run(name, func(t *testing.T) {
			w := newWorld(t)
			w.organisation("acme")
			w.organisation("globex")
			p := w.registry("reg.test", "", ocitest.Options{})
			img := p.reg.AddImage("team/app", "v1", ocitest.Image{})
			w.start()
			path := "/v2/reg.test/team/app/blobs/" + img.Digest.String()
			p.reg.Inject(ocitest.Match{Kind: ocitest.Blob, Where: func(r ocitest.Request) bool { return r.Digest == img.Digest }}, 0, test.fault)
			c := w.as("acme")
			if a := c.head(path); a.status != test.status && a.status != http.StatusServiceUnavailable || a.status == http.StatusOK {
				t.Errorf("cold: %s", a)
			}
			if a := c.get("/v2/reg.test/team/app/manifests/v1"); a.status != http.StatusOK {
				t.Fatal(a)
			}
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				if a := c.do(method, path); a.status != test.status {
					t.Error(a)
				}
			}
		})
	}
}

// Whoever asks by HEAD is told a length also by a registry that tells none.
func TestBlob_HeadWithoutALength(t *testing.T) {
	for _, size := range []int64{0, 100, 300_000, 5 << 20} {
		w := newWorld(t)
		w.organisation("acme")
		p := w.registry("reg.test", "", ocitest.Options{NoRange: true, Fault: func(r ocitest.Request) ocitest.Fault { return ocitest.Fault{Chunked: r.Kind == ocitest.Blob} }})
		d := p.reg.AddNoise("team/app", 1, size)
		w.start()
		for range 2 {
			if a := w.as("acme").head("/v2/reg.test/team/app/blobs/" + d.String()); a.status != http.StatusOK || a.header.Get("Content-Length") != strconv.FormatInt(size, 10) {
				t.Errorf("%d bytes: %s, %v", size, a, a.header)
			}
		}
		before := p.reg.Count(ocitest.Match{Kind: ocitest.Blob})
		if a := w.as("acme").get("/v2/reg.test/team/app/blobs/" + d.String()); int64(len(a.body)) != size || a.err != nil {
			t.Errorf("%d bytes: %s", size, a)
		}
		if n := p.reg.Count(ocitest.Match{Kind: ocitest.Blob}) - before; n > 0 {
			t.Errorf("%d bytes: what was read for its length is asked for %d times more", size, n)
		}
	}
}
