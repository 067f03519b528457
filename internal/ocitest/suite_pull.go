package ocitest

import (
	"encoding/json"
	"net/url"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// pullCases: whole images, from every kind of registry.
func pullCases() []suiteCase {
	return []suiteCase{
		{"pull", testPull},
		{"pull over an expired token", testExpiredToken},
		{"pull over an expired redirect", testExpiredRedirect},
		{"a redirect from https to http", testDowngrade},
		{"a redirect without end", testRedirectLoop},
		{"a descriptor with urls", testForeignLayer},
	}
}

func testPull(t *testing.T, s Suite) {
	for name, o := range map[string]Options{
		"open":                      {},
		"basic":                     {Auth: Basic, Private: true},
		"bearer":                    {Auth: Bearer, Private: true},
		"bearer, token server":      {Auth: Bearer, Private: true, TokenServer: true},
		"bearer, token only":        {Auth: Bearer, Private: true, TokenShape: TokenOnly},
		"bearer, access token only": {Auth: Bearer, Private: true, TokenShape: AccessTokenOnly, OAuth: true},
		"bearer, https, cdn":        {Auth: Bearer, Private: true, TLS: true, CDN: CDNSame},
		"bearer, h2, cdn":           {Auth: Bearer, Private: true, TLS: true, HTTP2: true, TokenServer: true, CDN: CDNTLS},
		"http to https cdn":         {CDN: CDNTLS},
		"manifests on the cdn":      {CDN: CDNSame, ManifestRedirect: true},
	} {
		t.Run(name, func(t *testing.T) {
			o.OneCopy = true
			r, src := s.open(t, o, acme())
			img := r.AddImage("acme/app", "v1", Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{50_000, 1_200_001}})
			pull(t, src, r, img)
			if o.Auth == NoAuth {
				return
			}
			for _, q := range r.Requests(Match{Server: RegistryServer, Status: 200}) {
				if q.User != acme().User && q.Kind != Ping {
					t.Errorf("asked as %q: %s", q.User, q)
				}
			}
		})
	}
}

// pull fetches an image the way a client does: the tag, the index, one
// platform's manifest, and what that lists.
func pull(t *testing.T, src oci.Source, r *Registry, img Pushed) {
	t.Helper()
	got, err := src.Resolve(within(t), img.Repo, img.Tag)
	if err != nil {
		t.Fatalf("resolving: %v", err)
	}
	if got.Digest != img.Digest || got.MediaType != img.MediaType {
		t.Errorf("%s is %s %s, want %s %s", img.Tag, got.MediaType, got.Digest, img.MediaType, img.Digest)
	}
	mustRead(t, src, manifestOf(img.Digest), oci.Range{}, r.Bytes(img.Repo, img.Digest))
	p := img.Platforms[len(img.Platforms)-1]
	mustRead(t, src, manifestOf(p.Manifest), oci.Range{}, r.Bytes(img.Repo, p.Manifest))
	for _, b := range append(p.Layers, p.Config) {
		mustRead(t, src, blobOf(b), oci.Range{}, r.Bytes(img.Repo, b))
	}
}

func testExpiredToken(t *testing.T, s Suite) {
	r, src := s.open(t, Options{Auth: Bearer, Private: true}, acme())
	d, data := addManifest(r, "v1")
	mustRead(t, src, manifestOf(d), oci.Range{}, data)
	r.ExpireTokens()
	b := r.AddNoise("acme/app", 1, 10_000)
	mustRead(t, src, blobOf(b), oci.Range{}, r.Bytes("acme/app", b))
}

func testExpiredRedirect(t *testing.T, s Suite) {
	r, src := s.open(t, Options{CDN: CDNSame}, nobody())
	d := r.AddNoise("acme/app", 1, 10_000)
	want := r.Bytes("acme/app", d)
	mustRead(t, src, blobOf(d), oci.Range{Length: 10}, want)
	r.ExpireRedirects()
	mustRead(t, src, blobOf(d), oci.Range{}, want)
}

func testDowngrade(t *testing.T, s Suite) {
	r, src := s.open(t, Options{TLS: true, CDN: CDNPlain}, nobody())
	d := r.AddNoise("acme/app", 1, 10_000)
	if rightOrError(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d)) || r.Count(Match{Server: CDNServer}) > 0 {
		t.Error("a redirect from https to http was followed")
	}
}

func testRedirectLoop(t *testing.T, s Suite) {
	o := Options{CDN: CDNSame, Location: func(q Request, _ *url.URL) string { return q.Path }}
	r, src := s.open(t, o, nobody())
	d := r.AddNoise("acme/app", 1, 10_000)
	if rightOrError(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d)) {
		t.Error("a redirect to itself gave bytes")
	}
	if n := r.BlobGETs(); n > 60 {
		t.Errorf("%d requests for a redirect to itself", n)
	}
}

// The registry watches for requests to a descriptor's urls by itself.
func testForeignLayer(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	img := r.AddImage("acme/app", "v1", Image{Layers: []int64{2000}, ForeignLayer: true})
	pull(t, src, r, img)
	var m v1.Manifest
	c, err := src.Open(within(t), manifestOf(img.Digest), oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, c)
	if err := json.Unmarshal(c.Data, &m); err != nil {
		t.Fatal(err)
	}
	_, err = src.Open(within(t), blobOf(m.Layers[1].Digest), oci.Range{})
	failed(t, err, oci.NotFound)
}
