package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/ocitest"
	"berth/oci"
)

// bomb is little that unpacks to more than a node may take.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 2 * frugal >> 20 {
		_, _ = z.Write(zeros) // into memory
	}
	_ = z.Close() // likewise
	return b.Bytes()
})

// mischief is what a registry may answer with.
type mischief struct {
	path  string
	fault ocitest.Fault
	// status is what the client may hear. Its code follows from it.
	status []int
}

var (
	down    = []int{http.StatusServiceUnavailable}
	useless = []int{http.StatusServiceUnavailable, http.StatusNotFound}
	refused = []int{http.StatusForbidden}
	large   = []int{http.StatusRequestEntityTooLarge}
)

func pages(body []byte, header ...string) ocitest.Fault {
	f := ocitest.Status(http.StatusOK, header...)
	f.Body = body
	return f
}

func manifestMischief(digest string) map[string]mischief {
	const kind, zip = "Content-Type", "Content-Encoding"
	megabytes := bytes.Repeat([]byte(" "), 10<<20)
	endless := pages(megabytes, kind, v1.MediaTypeImageManifest)
	endless.Endless = true
	return map[string]mischief{
		"5 MiB":              {"manifests/1", pages(manifestOf(5 << 20)), large},
		"5 MiB, by digest":   {"manifests/" + oci.DigestOf(manifestOf(5<<20)).String(), pages(manifestOf(5 << 20)), large},
		"without an end":     {"manifests/1", endless, large},
		"100000 levels":      {"manifests/1", pages([]byte(`{"schemaVersion":2,"config":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`)), useless},
		"that unpacks":       {"manifests/1", pages(bomb(), kind, v1.MediaTypeImageManifest, zip, "gzip"), useless},
		"that is a page":     {"manifests/1", pages([]byte("<html>"), kind, "text/html; charset=utf-8"), down},
		"that is nothing":    {"manifests/1", pages([]byte{}, kind, v1.MediaTypeImageManifest), useless},
		"that is an array":   {"manifests/1", pages([]byte("[]"), kind, v1.MediaTypeImageManifest), useless},
		"of two kinds":       {"manifests/1", pages([]byte(`{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}`)), useless},
		"half":               {"manifests/1", ocitest.CutAfter(100, ocitest.CutClose), down},
		"another one":        {"manifests/" + digest, pages(manifestOf(1000)), down},
		"behind a flood":     {"manifests/1", headerFlood(), down},
		"elsewhere":          {"manifests/1", ocitest.Status(http.StatusTemporaryRedirect, "Location", "/"+strings.Repeat("a", 50_000)), down},
		"299":                {"manifests/1", ocitest.Status(299), down},
		"799":                {"manifests/1", ocitest.Status(799), down},
		"a large refusal":    {"manifests/1", ocitest.Fault{Status: http.StatusForbidden, Body: megabytes}, refused},
		"a large 404":        {"manifests/1", ocitest.Fault{Status: http.StatusNotFound, Body: megabytes}, []int{http.StatusNotFound}},
		"a coloured refusal": {"manifests/1", ocitest.Problem(http.StatusForbidden, "DENIED", "\x1b[31mred\r\nSet-Cookie: x\u202e"), refused},
	}
}

func otherMischief(config oci.Digest) map[string]mischief {
	endless := pages([]byte(`{"name":"x","tags":["`))
	endless.Endless = true
	blob := "blobs/" + config.String()
	return map[string]mischief{
		"a blob behind a flood":    {blob, headerFlood(), down},
		"a blob that unpacks":      {blob, pages(bomb(), "Content-Encoding", "gzip"), down},
		"a blob that is a page":    {blob, pages([]byte("<html>"), "Content-Type", "text/html"), down},
		"a blob of many terabytes": {blob, ocitest.Fault{Status: http.StatusPartialContent, Body: []byte("x"), Header: http.Header{"Content-Range": {"bytes 0-0/99999999999999"}}}, down},
		"tags of 10 MiB":           {"tags/list", pages(bytes.Repeat([]byte("[1],"), 10<<18)), down},
		"tags that are a page":     {"tags/list", pages([]byte("<html>"), "Content-Type", "text/html"), down},
		"tags without an end":      {"tags/list", endless, large},
		"referrers that unpack":    {"referrers/" + config.String(), pages(bomb(), "Content-Encoding", "gzip"), []int{http.StatusNotFound}},
	}
}

// manifestOf is a manifest of this many bytes.
func manifestOf(size int) []byte {
	m := bytes.Repeat([]byte(" "), size)
	copy(m, `{"schemaVersion":2,"layers":[],"config":{}`)
	m[size-1] = '}'
	return m
}

func headerFlood() ocitest.Fault {
	f := ocitest.Fault{Header: http.Header{}}
	for i := range 5000 {
		f.Header.Set(fmt.Sprintf("X-Flood-%d", i), strings.Repeat("y", 200))
	}
	return f
}

// Registries break, and bad ones do worse. Whatever they send has an end here,
// and the client hears what the table of failures has for it.
func TestBadRegistries(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	h.registry("docker.io", hub)
	good := hub.AddImage("library/good", "1", ocitest.Image{Layers: []int64{5000}})
	n := h.build()
	c := h.nobody(n)
	all := manifestMischief(good.Digest.String())
	maps.Copy(all, otherMischief(good.Platforms[0].Config))
	// A few at a time: each may take some megabytes, and the limit is for all.
	few := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for what, m := range all {
		repo := "evil/" + oci.DigestOf([]byte(what)).Encoded()[:12]
		hub.AddImage(repo, "1", ocitest.Image{Layers: []int64{5000}}) // the same as good
		hub.Inject(ocitest.Match{Repo: repo, Method: http.MethodHead}, 0, ocitest.Status(http.StatusMethodNotAllowed))
		hub.Inject(ocitest.Match{Repo: repo}, 0, m.fault)
		wg.Go(func() {
			few <- struct{}{}
			defer func() { <-few }()
			for range 3 {
				c.mustSuffer(what, c.get("/v2/"+repo+"/"+m.path), m)
			}
		})
	}
	wg.Wait()
	c.mustPull("good", good, "")
	// The last, since it stops all others.
	hub.Inject(ocitest.Match{}, 0, ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "later", "Retry-After", "31536000000"))
	c.mustSuffer("in a thousand years", c.get("/v2/late/manifests/1"), mischief{status: []int{http.StatusTooManyRequests}})
	if peak := n.peakMemory(); peak >= frugal {
		t.Errorf("berth took %d MiB", peak>>20)
	} else {
		t.Logf("berth took %d MiB", peak>>20)
	}
}

// mustSuffer wants a good error document for what a registry did.
func (c *client) mustSuffer(what string, a answer, m mischief) {
	code := map[int]oci.Code{
		http.StatusForbidden: oci.CodeDenied, http.StatusTooManyRequests: oci.CodeTooManyRequests,
		http.StatusNotFound: oci.CodeManifestUnknown, http.StatusServiceUnavailable: oci.CodeUnknown,
		http.StatusRequestEntityTooLarge: oci.CodeManifestInvalid,
	}[a.status]
	if a.status == http.StatusRequestEntityTooLarge && strings.HasSuffix(m.path, "list") {
		code = oci.CodeUnsupported
	}
	if !slices.Contains(m.status, a.status) || a.code() != string(code) || a.err != nil || len(a.body) > 2000 {
		c.t.Errorf("%s: %s\nwant %v", what, a, m.status)
	}
	if a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "" {
		c.t.Errorf("%s: there is no Retry-After", what)
	}
	if strings.ContainsAny(a.message(), "\x1b\r\n\u202e") || a.message() == "" {
		c.t.Errorf("%s: the message is %q", what, a.message())
	}
}

// A token endpoint is a registry too.
func TestBadTokenEndpoints(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ends := map[string]ocitest.Fault{
		"10 MiB":         pages([]byte(`{"token":"` + strings.Repeat("t", 10<<20) + `"}`)),
		"without an end": {Status: http.StatusOK, Body: []byte(`{"token":"`), Endless: true},
		"a page":         pages([]byte("<html>"), "Content-Type", "text/html"),
		"no token":       pages([]byte("{}")),
		"100000 levels":  pages([]byte(strings.Repeat(`{"token":`, 100_000))),
		"two lines":      pages([]byte(`{"token":"a\r\nX-Injected: 1"}`)),
		"that unpacks":   pages(bomb(), "Content-Encoding", "gzip"),
		"a flood":        headerFlood(),
		"elsewhere":      ocitest.Status(http.StatusTemporaryRedirect, "Location", "https://evil.example/token"),
		"silent refusal": {Status: http.StatusForbidden, Body: make([]byte, 10<<20)},
	}
	h.tenant("acme")
	for what, fault := range ends {
		r := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
		r.AddUser("acme-bot", "acme-secret", "**")
		r.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{5000}})
		r.Inject(ocitest.Match{Kind: ocitest.Token}, 0, fault)
		name := oci.DigestOf([]byte(what)).Encoded()[:12] + ".test"
		h.registry(name, r)
		h.credential("acme", "ci", name, "acme-bot", "acme-secret")
	}
	n := h.build()
	c := h.as(n, "acme")
	for what := range ends {
		a := c.get("/v2/" + oci.DigestOf([]byte(what)).Encoded()[:12] + ".test/acme/app/manifests/1")
		want := down
		if what == "silent refusal" {
			want = refused
		}
		c.mustSuffer(what, a, mischief{status: want})
	}
	if peak := n.peakMemory(); peak >= frugal {
		t.Errorf("berth took %d MiB", peak>>20)
	}
}

// How to sign in can be nonsense too.
func TestBadChallenges(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	n := 0
	names := map[string]string{}
	for _, challenge := range []string{
		`Bearer realm="https://` + strings.Repeat("a", 50_000) + `"`, `Bearer realm="https://evil.example/token"`, `Bearer`, `Negotiate`, `Basic`, ``,
		strings.Repeat(`Bearer a="b",`, 4000), `Bearer realm="\x00"`, `Bearer realm="http://169.254.169.254/latest/meta-data"`, `Bearer realm="file:///etc/passwd"`,
	} {
		r := ocitest.New(t, ocitest.Options{Private: true})
		r.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{5000}})
		r.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusUnauthorized, "Www-Authenticate", challenge))
		n++
		name := fmt.Sprintf("r%d.test", n)
		names[name] = challenge
		h.registry(name, r)
	}
	c := h.nobody(h.serve())
	for name, challenge := range names {
		c.mustSuffer(fmt.Sprintf("%.60q", challenge), c.get("/v2/"+name+"/acme/app/manifests/1"), mischief{status: append(down, refused...)})
	}
}

// A blob without a length that never ends: it ends where the cache does, the
// client is not told that it was complete, and the others' blobs are cached as
// before.
func TestBlobWithoutAnEnd(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	h.registry("docker.io", hub)
	h.cache["max_size"] = "64MiB"
	good := hub.AddImage("library/good", "1", ocitest.Image{Layers: []int64{5 << 20}})
	d := hub.AddNoise("library/evil", 1, 5<<20)
	hub.Inject(ocitest.Match{Digest: d}, 0, ocitest.Fault{Endless: true, IgnoreRange: true})
	n := h.build()
	c := h.nobody(n)
	resp, err := c.send(soon(t), http.MethodGet, "/v2/evil/blobs/"+d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.Copy(io.Discard, resp.Body); err == nil || err == context.DeadlineExceeded || got > 65<<20 {
		t.Errorf("after %d bytes: %v", got, err)
	}
	c.mustPull("good", good, "")
	hub.Forget()
	c.mustPull("good", good, "")
	if all := hub.Requests(ocitest.Match{}); len(all) > 0 {
		t.Errorf("after that, pulls go past the cache: %v", all)
	}
	if peak := n.peakMemory(); peak >= frugal {
		t.Errorf("berth took %d MiB", peak>>20)
	}
}
