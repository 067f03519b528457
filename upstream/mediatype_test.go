package upstream

import (
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

const (
	ociImage    = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[]`
	dockerImage = `"config":{"mediaType":"application/vnd.docker.container.image.v1+json"},"layers":[]`
)

// What a document says that it is wins over what it was sent as.
func TestMediaType_OfTheDocument(t *testing.T) {
	typed := func(mediaType, rest string) string {
		return `{"schemaVersion":2,"mediaType":"` + mediaType + `",` + rest + `}`
	}
	for name, test := range map[string]struct{ sent, doc, want string }{
		"Docker sent as OCI (harbor#15837)": {oci.MediaTypeManifest, typed(oci.MediaTypeDockerManifest, dockerImage), oci.MediaTypeDockerManifest},
		"OCI sent as Docker":                {oci.MediaTypeDockerManifest, typed(oci.MediaTypeManifest, ociImage), oci.MediaTypeManifest},
		"list sent as index":                {oci.MediaTypeIndex, typed(oci.MediaTypeDockerList, `"manifests":[]`), oci.MediaTypeDockerList},
		"index sent as list":                {oci.MediaTypeDockerList, typed(oci.MediaTypeIndex, `"manifests":[]`), oci.MediaTypeIndex},
		"image sent as index":               {oci.MediaTypeIndex, typed(oci.MediaTypeManifest, ociImage), oci.MediaTypeManifest},
		"index sent as image":               {oci.MediaTypeManifest, typed(oci.MediaTypeIndex, `"manifests":[]`), oci.MediaTypeIndex},
		"Docker without a type":             {oci.MediaTypeDockerManifest, `{"schemaVersion":2,` + dockerImage + `}`, oci.MediaTypeDockerManifest},
		"the same sent as OCI":              {oci.MediaTypeManifest, `{"schemaVersion":2,` + dockerImage + `}`, oci.MediaTypeDockerManifest},
		"OCI without a type":                {oci.MediaTypeDockerManifest, `{"schemaVersion":2,` + ociImage + `}`, oci.MediaTypeManifest},
		"an image with manifests: null":     {oci.MediaTypeManifest, typed(oci.MediaTypeManifest, ociImage+`,"manifests":null`), oci.MediaTypeManifest}, // gitpod#3397
		"sent as JSON":                      {"application/json", typed(oci.MediaTypeDockerManifest, dockerImage), oci.MediaTypeDockerManifest},
		"sent as a page":                    {"text/html", typed(oci.MediaTypeManifest, ociImage), oci.MediaTypeManifest},
	} {
		up := ocitest.New(t, ocitest.Options{})
		digest := up.AddManifest("acme/app", "v1", test.sent, []byte(test.doc))
		src := over(t, up).As(Identity{})
		if d, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil || d.Digest != digest { // by HEAD: nobody has seen the document
			t.Errorf("%s: %v", name, err)
		}
		c, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: digest}, oci.Range{})
		if err != nil || c.MediaType != test.want {
			t.Errorf("%s: GET: %v %v", name, c, err)
			continue
		}
		d, err := src.Resolve(t.Context(), "acme/app", "v1")
		if err != nil || d.MediaType != test.want {
			t.Errorf("%s: HEAD after it: %s %v", name, d.MediaType, err)
		}
		st, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: digest})
		if err != nil || st.MediaType != test.want {
			t.Errorf("%s: HEAD by digest: %v %v", name, st, err)
		}
	}
}

// What is one thing to some readers and another to others is not understood under a
// tag, and final where a digest says that it is what was asked for.
func TestManifest_OfTwoMeanings(t *testing.T) {
	for _, doc := range []string{
		`{"schemaVersion":2,"mediATYpe":"` + oci.MediaTypeManifest + `",` + ociImage + `}`,
		`{"schemaVersion":2,"config":{},"Layers":[]}`, `{"schemaVersion":2,"MANIFESTS":[],"layers":[]}`,
		`{"schemaVersion":2,"layers":[],"layers":[{}]}`, `{"schemaVersion":2,"layers":[],"manifests":[]}`,
		`{"schemaVersion":2,"layers":[{"size":"12"}]}`, "\xef\xbb\xbf" + `{"schemaVersion":2,` + ociImage + `}`,
		`{"status":"ok"}`, `[]`, `"text"`, ``, `{"schemaVersion":2}`,
	} {
		up := ocitest.New(t, ocitest.Options{Fault: func(ocitest.Request) ocitest.Fault { return ocitest.NoHeader("Docker-Content-Digest") }})
		digest := up.AddManifest("acme/app", "v1", "application/json", []byte(doc))
		src := over(t, up).As(Identity{})
		_, err := src.Resolve(t.Context(), "acme/app", "v1")
		if e := classed(t, err, oci.UpstreamError); !e.NotUnderstood || e.HTTPStatus() != 503 {
			t.Errorf("%.80s: %d, not understood %v", doc, e.HTTPStatus(), e.NotUnderstood)
		}
		_, err = src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: digest}, oci.Range{})
		if e := classed(t, err, oci.UpstreamError); e.HTTPStatus() != 404 || strings.Contains(e.Message, "try again") {
			t.Errorf("%.80s: by digest: %d %s", doc, e.HTTPStatus(), e.Message)
		}
	}
}
