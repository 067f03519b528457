package setup

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"berth/internal/registry"
	"berth/oci"
	"berth/proxy"
)

// vector is one line of doc/names.json.
type vector struct {
	Image, Organisation, Listener, Registry, Name string
	Upstream                                      []string // registry, repository, reference
	Refused                                       bool
}

func vectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("../../doc/names.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Vectors []vector }
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Vectors) < 20 {
		t.Fatalf("only %d vectors", len(doc.Vectors))
	}
	return doc.Vectors
}

// The vectors are what LocalName makes, and what the parser that serves requests
// makes of them again.
func TestVectors(t *testing.T) {
	t.Parallel()
	router := newRouter(t)
	for _, v := range vectors(t) {
		got, err := LocalName(v.Image, v.Listener, v.Organisation)
		if v.Refused {
			if err == nil {
				t.Errorf("%q becomes %q", v.Image, got.Local)
			}
			continue
		}
		if err != nil || got.Local != v.Name {
			t.Errorf("%q becomes %q, %v; not %q", v.Image, got.Local, err, v.Name)
			continue
		}
		if here := []string{got.Registry, got.Repository, got.Reference}; !slices.Equal(here, v.Upstream) {
			t.Errorf("%q is of %q, not of %q", v.Image, here, v.Upstream)
		}
		if there := routed(t, router, v.Name, v.Organisation, v.Registry, v.Organisation != ""); !slices.Equal(there, v.Upstream) {
			t.Errorf("%s asks for %q, not for %q", v.Name, there, v.Upstream)
		}
	}
}

func newRouter(t testing.TB) *proxy.Router {
	t.Helper()
	router, err := proxy.NewRouter([]*registry.Spec{
		{Name: "docker.io"},
		{Name: "ghcr.io"}, {Name: "quay.io"}, {Name: "registry.digitalocean.com"},
		{Name: "reg.acme.com:5443", Organisation: "acme"},
		{Name: "localhost:5001"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// routed is what a client that pulls name asks for: registry, repository and
// reference, by the parser that serves requests.
func routed(t testing.TB, router *proxy.Router, name, organisation, standard string, required bool) []string {
	t.Helper()
	_, path, _ := strings.Cut(name, "/")
	at := strings.LastIndexByte(path, ':')
	repo, ref := path[:at], path[at+1:]
	if before, digest, ok := strings.Cut(path, "@"); ok {
		repo, ref = before, digest
	}
	req, err := oci.ParseRequest(http.MethodGet, &url.URL{Path: "/v2/" + repo + "/manifests/" + ref})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	route, err := router.Route(&req, organisation, proxy.Naming{Default: standard, OrganisationRequired: required})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return []string{route.Registry.Name, route.Repo, req.Tag + req.Digest.String()}
}

// Whatever name is taken leads to where it says, at every kind of listener.
func TestLocalNamesComeBack(t *testing.T) {
	t.Parallel()
	router := newRouter(t)
	rapid.Check(t, func(r *rapid.T) {
		registry := rapid.SampledFrom([]string{"", "docker.io/", "ghcr.io/", "quay.io/", "reg.acme.com:5443/", "localhost:5001/"}).Draw(r, "registry")
		repo := rapid.StringMatching(`((acme|docker\.io|ghcr\.io|library|[a-z0-9]+([._-][a-z0-9]+)?)/){0,3}[a-z0-9]+`).Draw(r, "repo")
		tag := rapid.StringMatching(`(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?`).Draw(r, "tag")
		n, err := LocalName(registry+repo+tag, "localhost:5000", "acme")
		if err != nil {
			r.Skip(err)
		}
		if !slices.Contains([]string{"docker.io", "ghcr.io", "quay.io", "reg.acme.com:5443", "localhost:5001"}, n.Registry) {
			r.Skip("a registry that is not there")
		}
		want := []string{n.Registry, n.Repository, n.Reference}
		for _, standard := range []string{"docker.io", "ghcr.io"} {
			for _, required := range []bool{true, false} {
				if got := routed(t, router, n.Local, "acme", standard, required); !slices.Equal(got, want) {
					r.Errorf("%s asks for %q, not for %q", n.Local, got, want)
				}
			}
		}
		bare, err := LocalName(registry+repo+tag, "localhost:5000", "")
		if err != nil {
			r.Fatal(err)
		}
		if got := routed(t, router, bare.Local, "acme", "docker.io", false); !slices.Equal(got, want) {
			r.Errorf("%s asks for %q, not for %q", bare.Local, got, want)
		}
	})
}

func FuzzLocalName(f *testing.F) {
	for _, image := range []string{"nginx", "ghcr.io/acme/app:1", "a:1/b@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "[::1]:5000/x", "A/b", "x/../y"} {
		f.Add(image, "acme")
	}
	f.Fuzz(func(t *testing.T, image, organisation string) {
		n, err := LocalName(image, "localhost:5000", organisation)
		if err != nil {
			return
		}
		_, path, _ := strings.Cut(n.Local, "/")
		path, _, _ = strings.Cut(path, "@")
		if at := strings.LastIndexByte(path, ':'); at >= 0 {
			path = path[:at]
		}
		if !oci.ValidName(path) {
			t.Errorf("%q becomes %q", image, n.Local)
		}
	})
}

func TestListenerFor(t *testing.T) {
	t.Parallel()
	open := Listener{Address: "localhost:1"}
	token := Listener{Address: "localhost:2", Token: true, NameNeedsOrganisation: true}
	loose := Listener{Address: "localhost:3", Token: true}
	acme := Listener{Address: "localhost:4", Organisation: "acme"}
	for _, c := range []struct {
		all          []Listener
		organisation string
		want         string
	}{
		{[]Listener{token, open}, "", "localhost:1"},
		{[]Listener{token, loose}, "", "localhost:3"},
		{[]Listener{token}, "", ""},
		{[]Listener{open, token}, "acme", "localhost:2"},
		{[]Listener{open, acme}, "acme", "localhost:4"},
		{[]Listener{open, acme}, "globex", ""},
		{nil, "", ""},
	} {
		got, err := ListenerFor(c.all, c.organisation)
		if got.Address != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v for %q: %q, %v, want %q", c.all, c.organisation, got.Address, err, c.want)
		}
	}
}
