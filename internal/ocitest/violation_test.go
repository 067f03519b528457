package ocitest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestViolations(t *testing.T) {
	r := New(t, Options{CDN: CDNSame})
	img := r.AddImage("acme/app", "v1", Image{Layers: []int64{3000}, ForeignLayer: true})
	blob := blobPath(img.Platforms[0].Layers[0])
	target := get(t, r, blob).want(t, 307).header.Get("Location")
	manifest := manifestPath("v1")

	for name, c := range map[string]struct {
		method, target string
		header         []string
		want           []string
	}{
		"nothing":                 {"GET", manifest, nil, nil},
		"a HEAD of a manifest":    {"HEAD", manifest, nil, nil},
		"a range of a blob":       {"GET", target, []string{"Range", "bytes=0-0"}, nil},
		"a ping without Accept":   {"GET", "/v2/", []string{"Accept", "", "Accept-Encoding", ""}, nil},
		"more types":              {"GET", manifest, []string{"Accept", strings.Join(manifestTypes[:], ";q=0.5,") + ", */*"}, nil},
		"types in several lines":  {"GET", manifest, accepts(), nil},
		"a HEAD of a blob":        {"HEAD", blob, nil, []string{"by HEAD"}},
		"a HEAD at the CDN":       {"HEAD", target, nil, []string{"presigned"}},
		"a token at the CDN":      {"GET", target, []string{"Authorization", "Bearer x"}, []string{"Authorization was sent to the CDN"}},
		"gzip":                    {"GET", blob, []string{"Accept-Encoding", "gzip"}, []string{"Accept-Encoding"}},
		"any encoding":            {"GET", blob, []string{"Accept-Encoding", ""}, []string{"Accept-Encoding"}},
		"gzip at the CDN":         {"GET", target, []string{"Accept-Encoding", "gzip, identity"}, []string{"Accept-Encoding"}},
		"gzip of a list":          {"GET", "/v2/acme/app/tags/list", []string{"Accept-Encoding", "gzip"}, []string{"Accept-Encoding"}},
		"a type less":             {"GET", manifest, []string{"Accept", strings.Join(manifestTypes[1:], ",")}, []string{"Accept lacks " + manifestTypes[0]}},
		"any type":                {"HEAD", manifest, []string{"Accept", "*/*"}, []string{manifestTypes[0], manifestTypes[1], manifestTypes[2], manifestTypes[3]}},
		"several ranges":          {"GET", target, []string{"Range", "bytes=0-1,5-6"}, []string{"more than one range"}},
		"a cookie":                {"GET", manifest, []string{"Cookie", "a=b"}, []string{"Cookie"}},
		"a Meta header":           {"GET", manifest, []string{"X-Meta-Org", "acme"}, []string{"X-Meta-Org"}},
		"a Registry header":       {"GET", manifest, []string{"X-Registry-Auth", "x"}, []string{"X-Registry-Auth"}},
		"who asked":               {"GET", target, []string{"X-Forwarded-For", "10.0.0.1"}, []string{"X-Forwarded-For"}},
		"docker's User-Agent":     {"GET", manifest, []string{"User-Agent", "docker/29.0.1 go/go1.25"}, []string{"User-Agent"}},
		"containerd's User-Agent": {"GET", target, []string{"User-Agent", "containerd/2.3.0"}, []string{"User-Agent"}},
		"ns":                      {"GET", manifest + "?ns=docker.io", nil, []string{"ns parameter"}},
		"a push":                  {"PUT", manifest, nil, []string{"a pull needs no PUT"}},
		"a path of no registry":   {"GET", "/v1/search", nil, []string{"no registry has this path"}},
		"a descriptor's urls":     {"GET", foreignPath + "abc", nil, []string{"no registry has this path"}},
		"two credentials":         {"GET", manifest, []string{"Authorization", "Bearer a", "Authorization", "Bearer b"}, []string{"2 Authorization headers"}},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(c.target, "/") {
				c.target = r.URL() + c.target
			}
			hr := polite(t, c.method, c.target)
			for k := range headers(c.header) {
				hr.Header.Del(k)
			}
			for k, v := range headers(c.header) {
				if v[0] != "" {
					hr.Header[k] = v
				}
			}
			if _, err := do(clientOf(t, r), hr); err != nil {
				t.Fatal(err)
			}
			broken(t, r, c.want...)
		})
	}
}

func accepts() []string {
	var pairs []string
	for _, m := range manifestTypes {
		pairs = append(pairs, "Accept", m)
	}
	return pairs
}

func TestCredentialViolations(t *testing.T) {
	r := New(t, Options{Auth: Bearer})
	r.AddUser("bot", "pw")
	addManifest(r, "v1")
	for name, c := range map[string]struct {
		path   string
		header []string
		want   []string
	}{
		"a password to the registry":       {manifestPath("v1"), basic("bot", "pw"), []string{"a password was sent to the registry"}},
		"a password to ping":               {"/v2/", basic("bot", "pw"), []string{"a password was sent to the registry"}},
		"a token to the token endpoint":    {tokenPath + "?service=" + service, bearer("x"), []string{"a token was sent to the token endpoint"}},
		"a push scope":                     {tokenPath + "?service=" + service + "&scope=repository:acme/app:pull,push", nil, []string{"more than pull"}},
		"a password to the token endpoint": {tokenPath + "?service=" + service + "&scope=repository:acme/app:pull", basic("bot", "pw"), nil},
		"a token to the registry":          {manifestPath("v1"), bearer("x"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			get(t, r, c.path, c.header...)
			broken(t, r, c.want...)
		})
	}
}

func TestOneCopy(t *testing.T) {
	r := New(t, Options{OneCopy: true, CDN: CDNSame})
	d := r.AddNoise("acme/app", 1, 1000)
	fetch := func(rng string) {
		target := get(t, r, blobPath(d)).header.Get("Location")
		get(t, r, target, "Range", rng)
	}
	for _, rng := range []string{"bytes=0-499", "bytes=0-0", "bytes=500-", "bytes=0-0"} {
		fetch(rng)
	}
	broken(t, r)
	fetch("bytes=5-6")
	broken(t, r, fmt.Sprintf("more than one copy of %s: 1002 of 1000", d))
	r.Forget()
	broken(t, r, "more than one copy")
	broken(t, r)
}

// tb is a test that only writes down what happens to it.
type tb struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (b *tb) Helper()          {}
func (b *tb) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }
func (b *tb) Errorf(format string, args ...any) {
	b.errors = append(b.errors, fmt.Sprintf(format, args...))
}

func TestNewComplainsAtTheEnd(t *testing.T) {
	for path, want := range map[string]int{"/v2/": 0, "/v2/?ns=docker.io": 1} {
		b := &tb{TB: t}
		r := New(b, Options{})
		hr := polite(t, http.MethodGet, r.URL()+path)
		if _, err := do(clientOf(t, r), hr); err != nil {
			t.Fatal(err)
		}
		for _, f := range b.cleanups {
			f()
		}
		if len(b.errors) != want {
			t.Errorf("%s: %q", path, b.errors)
		}
		if _, err := do(clientOf(t, r), hr); err == nil {
			t.Error("the registry runs on after its test")
		}
	}
}
