package ocitest

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestCDN(t *testing.T) {
	for name, c := range map[string]struct {
		o      Options
		scheme string
	}{
		"http":          {Options{CDN: CDNSame}, "http"},
		"https":         {Options{CDN: CDNSame, TLS: true}, "https"},
		"http to https": {Options{CDN: CDNTLS}, "https"},
		"https to http": {Options{CDN: CDNPlain, TLS: true, HTTP2: true}, "http"},
	} {
		t.Run(name, func(t *testing.T) {
			r := New(t, c.o)
			d := r.AddNoise("acme/app", 1, 10_000)
			want := r.Bytes("acme/app", d)
			got := get(t, r, blobPath(d)).want(t, 307)
			target, err := got.url(t).Parse("")
			if err != nil || target.Scheme != c.scheme || target.Host == r.Host() || len(got.body) > 0 || got.header.Get("Docker-Content-Digest") != d.String() {
				t.Fatalf("redirected to %s: %v", target, got.header)
			}
			if got := get(t, r, target.String()).want(t, 200); !bytes.Equal(got.body, want) {
				t.Errorf("%d bytes", len(got.body))
			}
			got = get(t, r, target.String(), "Range", "bytes=-5").want(t, 206)
			if !bytes.Equal(got.body, want[9995:]) || got.header.Get("Content-Range") != "bytes 9995-9999/10000" {
				t.Errorf("%d bytes, %v", len(got.body), got.header)
			}
			if n := r.BlobBytes(d); n != 10_005 || r.BlobGETs() != 1 || r.Count(Match{Server: CDNServer, Kind: Blob, Repo: "acme/app", Digest: d}) != 2 {
				t.Errorf("%d bytes, %d at the registry", n, r.BlobGETs())
			}
		})
	}
}

func (p reply) url(t *testing.T) *url.URL {
	t.Helper()
	u, err := url.Parse(p.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCDNRefuses(t *testing.T) {
	var ahead atomic.Int64
	r := New(t, Options{CDN: CDNSame, RedirectTTL: time.Minute, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	d := r.AddNoise("acme/app", 1, 10_000)
	other := r.AddNoise("acme/app", 2, 10_000)
	target := get(t, r, blobPath(d)).header.Get("Location")

	get(t, r, target, "Authorization", "Bearer x").want(t, 400)
	broken(t, r, "Authorization was sent to the CDN")
	got, err := do(clientOf(t, r), polite(t, http.MethodHead, target))
	if err != nil || got.status != 403 {
		t.Errorf("HEAD: %d, %v", got.status, err)
	}
	broken(t, r, "presigned")
	get(t, r, strings.ReplaceAll(target, d.String(), other.String())).want(t, 403)
	get(t, r, strings.ReplaceAll(target, "acme", "other")).want(t, 403)
	get(t, r, strings.ReplaceAll(target, "expires=", "expires=9")).want(t, 403)
	get(t, r, target[:strings.Index(target, "?")]).want(t, 403)

	get(t, r, target).want(t, 200)
	r.ExpireRedirects()
	get(t, r, target).want(t, 403)
	target = get(t, r, blobPath(d)).header.Get("Location")
	get(t, r, target).want(t, 200)
	ahead.Store(int64(61 * time.Second))
	get(t, r, target).want(t, 403)

	target = get(t, r, blobPath(d)).header.Get("Location")
	r.Delete("acme/app", d.String())
	get(t, r, target).want(t, 404)
}

func TestRedirectsElsewhere(t *testing.T) {
	r := New(t, Options{CDN: CDNSame, ManifestRedirect: true, Location: func(q Request, u *url.URL) string {
		if q.Kind == Manifest {
			return u.String()
		}
		return "https://elsewhere.test" + q.Path
	}})
	m, data := addManifest(r, "v1")
	d := r.AddNoise("acme/app", 1, 10)
	if l := get(t, r, blobPath(d)).want(t, 307).header.Get("Location"); l != "https://elsewhere.test"+blobPath(d) {
		t.Error(l)
	}
	target := get(t, r, manifestPath("v1")).want(t, 307).header.Get("Location")
	if got := get(t, r, target).want(t, 200); !bytes.Equal(got.body, data) || got.header.Get("Docker-Content-Digest") != m.String() {
		t.Errorf("%q %v", got.body, got.header)
	}
	head(t, r, manifestPath("v1")).want(t, 200) // only GETs are redirected
}
