package main

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// target is where a redirect leads: it serves one blob, and keeps the headers of
// whoever came.
type target struct {
	*httptest.Server

	mu   sync.Mutex
	seen []http.Header
}

func newTarget(t *testing.T, secure bool, data []byte) *target {
	t.Helper()
	s := &target{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Header.Clone())
		s.mu.Unlock()
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data) // the client is told by the length
	})
	if secure {
		s.Server = httptest.NewTLSServer(h)
	} else {
		s.Server = httptest.NewServer(h)
	}
	t.Cleanup(s.Close)
	return s
}

func (s *target) headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Authorization goes to the registry itself: not to another scheme, another
// name for the same address, or another port; and not back to it once the way
// has led elsewhere.
func TestAuthorizationStaysAtHome(t *testing.T) {
	t.Parallel()
	data := []byte(strings.Repeat("layer ", 1000))
	plain, secure := newTarget(t, false, data), newTarget(t, true, data)
	for what, c := range map[string]struct {
		auth     ocitest.Auth
		location func(at *url.URL) string
		target   *target
		status   int
	}{
		"another port, token":     {ocitest.Bearer, func(*url.URL) string { return plain.URL + "/x?signature=1" }, plain, http.StatusOK},
		"another port, password":  {ocitest.Basic, func(*url.URL) string { return plain.URL + "/x?signature=1" }, plain, http.StatusOK},
		"another name":            {ocitest.Basic, func(*url.URL) string { return strings.Replace(plain.URL, "127.0.0.1", "localhost", 1) + "/x" }, plain, http.StatusOK},
		"another scheme":          {ocitest.Bearer, func(*url.URL) string { return secure.URL + "/x" }, secure, http.StatusOK},
		"a user name in the URL":  {ocitest.Basic, func(*url.URL) string { return strings.Replace(plain.URL, "http://", "http://a:b@", 1) + "/x" }, nil, http.StatusServiceUnavailable},
		"a file":                  {ocitest.Basic, func(*url.URL) string { return "file:///etc/passwd" }, nil, http.StatusServiceUnavailable},
		"no Location":             {ocitest.Basic, func(*url.URL) string { return "" }, nil, http.StatusServiceUnavailable},
		"itself, again and again": {ocitest.Basic, func(at *url.URL) string { return at.String() }, nil, http.StatusServiceUnavailable},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			var hub *ocitest.Registry
			hub = ocitest.New(t, ocitest.Options{
				Auth: c.auth, Private: true, CDN: ocitest.CDNSame,
				Location: func(r ocitest.Request, _ *url.URL) string {
					at, err := url.Parse(hub.URL() + r.Path)
					if err != nil {
						t.Error(err)
					}
					return c.location(at)
				},
			})
			d := hub.AddBlob("acme/app", data)
			hub.AddUser("acme-bot", "canary-secret", "acme/**")
			ca := filepath.Join(h.dir, "ca.pem")
			h.write(ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
			h.registry("reg.test", hub, "allow_private: [127.0.0.0/8]", fmt.Sprintf("ca_file: %q", ca))
			h.tenant("acme")
			h.credential("acme", "ci", "reg.test", "acme-bot", "canary-secret")
			a := h.as(h.serve(), "acme").get("/v2/reg.test/acme/app/blobs/" + d.String())
			if a.status != c.status || a.status == http.StatusOK && oci.DigestOf(a.body) != d {
				t.Errorf("%s, want %d", a, c.status)
			}
			if strings.Contains(string(a.body), "signature") {
				t.Errorf("the answer has the signature: %s", a)
			}
			if c.status == http.StatusOK && len(c.target.headers()) == 0 {
				t.Error("the redirect was not followed")
			}
		})
	}
	t.Cleanup(func() { // when all of them are through
		for _, s := range []*target{plain, secure} {
			for _, header := range s.headers() {
				if header.Get("Authorization") != "" || header.Get("Cookie") != "" || header.Get("X-Meta-Canary") != "" {
					t.Errorf("a redirect target got %v", header)
				}
			}
		}
	})
}

// net/http takes a sub-domain of the registry for the registry. Quay's CDN is
// one.
func TestAuthorizationStaysOffSubDomains(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	data := []byte("a small layer")
	cdn := newTarget(t, false, data)
	hub := ocitest.New(t, ocitest.Options{
		Auth: ocitest.Basic, Private: true, CDN: ocitest.CDNSame,
		Location: func(ocitest.Request, *url.URL) string {
			return strings.Replace(cdn.URL, "127.0.0.1", "cdn.registry.test", 1)
		},
	})
	d := hub.AddBlob("acme/app", data)
	hub.AddUser("acme-bot", "canary-secret", "acme/**")
	h.endpoint("registry.test", strings.Replace(hub.URL(), "127.0.0.1", "registry.test", 1), "allow_private: [127.0.0.0/8]")
	h.tenant("acme")
	h.credential("acme", "ci", "registry.test", "acme-bot", "canary-secret")
	n := h.run(watchedResolver + "=" + newNameServer(t, "registry.test", "cdn.registry.test").addr())
	if a := h.as(n, "acme").get("/v2/registry.test/acme/app/blobs/" + d.String()); oci.DigestOf(a.body) != d {
		t.Errorf("%s", a)
	}
	if len(cdn.headers()) == 0 {
		t.Error("the redirect was not followed")
	}
	for _, header := range cdn.headers() {
		if header.Get("Authorization") != "" {
			t.Errorf("the sub-domain got %v", header)
		}
	}
}

// From https nothing leads to http, where anyone on the way could read along.
func TestNoRedirectFromHTTPSToHTTP(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{TLS: true, CDN: ocitest.CDNPlain})
	image := hub.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{5000}})
	h.registry("reg.test", hub, "allow_private: [127.0.0.0/8]")
	c := h.nobody(h.serve())
	c.mustRefuse("/v2/reg.test/acme/app/blobs/"+image.Platforms[0].Config.String(), http.StatusServiceUnavailable, oci.CodeUnknown)
	if n := len(hub.Requests(ocitest.Match{Server: ocitest.CDNServer})); n > 0 {
		t.Errorf("the CDN was asked %d times", n)
	}
}

// A redirect is dialled like everything else: what the operator has not opened
// is not reached, whatever the registry says.
func TestRedirectIntoThisNode(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	secret := newTarget(t, false, []byte("what only this node may see"))
	hub := ocitest.New(t, ocitest.Options{CDN: ocitest.CDNSame, Location: func(ocitest.Request, *url.URL) string { return secret.URL }})
	d := hub.AddBlob("acme/app", []byte("what only this node may see"))
	h.registry("reg.test", hub)
	a := h.nobody(h.serve()).mustRefuse("/v2/reg.test/acme/app/blobs/"+d.String(), http.StatusServiceUnavailable, oci.CodeUnknown)
	if n := len(secret.headers()); n > 0 {
		t.Errorf("it was reached %d times: %s", n, a)
	}
}

// Whatever clients ask for, no blob is asked for by HEAD upstream: Amazon's
// public registry answers 401 to every one, and URLs that are signed for GET 403.
// The test registry complains about it, in this test as in all others.
func TestNoBlobIsAskedForByHEAD(t *testing.T) {
	t.Parallel()
	for what, o := range map[string]ocitest.Options{
		"plain":     {},
		"redirects": {CDN: ocitest.CDNSame, ManifestRedirect: true},
		"no ranges": {NoRange: true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			hub := ocitest.New(t, o)
			image := hub.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{5000, 6 << 20}})
			h.registry("reg.test", hub, "allow_private: [127.0.0.0/8]")
			c := h.nobody(h.serve())
			for _, d := range image.Blobs(0) {
				size := len(hub.Bytes("acme/app", d))
				for _, a := range []answer{c.head("/v2/reg.test/acme/app/blobs/" + d.String()), c.head("/v2/reg.test/acme/app/blobs/"+d.String(), "Range", "bytes=0-0")} {
					if a.status != http.StatusOK || a.header.Get("Content-Length") != fmt.Sprint(size) || a.header.Get("Docker-Content-Digest") != d.String() {
						t.Errorf("%s %v, want %d bytes", a, a.header, size)
					}
				}
			}
			c.mustPull("reg.test/acme/app", image, "")
			for _, d := range image.Blobs(0) {
				if a := c.head("/v2/reg.test/acme/app/blobs/" + d.String()); a.status != http.StatusOK {
					t.Errorf("%s", a)
				}
			}
			if n := hub.Count(ocitest.Match{Kind: ocitest.Blob, Method: http.MethodHead}); n > 0 {
				t.Errorf("%d of them", n)
			}
		})
	}
}
