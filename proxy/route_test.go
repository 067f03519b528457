package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"berth/internal/registry"
	"berth/oci"
)

func parse(t testing.TB, target string) oci.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	req, err := oci.ParseRequest(http.MethodGet, u)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestRoute(t *testing.T) {
	router := testRouter(t)
	const acme = "acme"
	for _, c := range []struct {
		name, path   string // path is between the host and /manifests/1
		organisation string
		naming       Naming
		want         string // "registry repo", or "status message"
	}{
		// The same image, five ways.
		{"in full", "/v2/docker.io/library/nginx", "", Naming{}, "docker.io library/nginx"},
		{"without library", "/v2/docker.io/nginx", "", Naming{}, "docker.io library/nginx"},
		{"bare", "/v2/nginx", "", Naming{}, "docker.io library/nginx"},
		{"containerd", "/v2/library/nginx?ns=docker.io", "", Naming{}, "docker.io library/nginx"},
		{"bare with ns", "/v2/nginx?ns=docker.io", "", Naming{}, "docker.io library/nginx"},

		{"hub: index", "/v2/index.docker.io/nginx", "", Naming{}, "docker.io library/nginx"},
		{"hub: registry-1", "/v2/nginx?ns=registry-1.docker.io", "", Naming{}, "docker.io library/nginx"},
		{"hub: hub", "/v2/registry.hub.docker.com/acme/app", "", Naming{}, "docker.io acme/app"},
		{"hub: two names at once", "/v2/index.docker.io/library/nginx?ns=docker.io", "", Naming{}, "docker.io library/nginx"},
		{"hub: upper case ns", "/v2/library/nginx?ns=Docker.IO", "", Naming{}, "docker.io library/nginx"},

		{"ns", "/v2/acme/app?ns=ghcr.io", "", Naming{}, "ghcr.io acme/app"},
		{"ns and the same in the name", "/v2/ghcr.io/acme/app?ns=ghcr.io", "", Naming{}, "ghcr.io acme/app"},
		{"ns wins over the path", "/docker.io/v2/acme/app?ns=ghcr.io", "", Naming{}, "ghcr.io acme/app"},
		{"ns wins over the name", "/v2/docker.io/acme/app?ns=ghcr.io", "", Naming{}, "ghcr.io docker.io/acme/app"},
		{"ns and nothing but the same", "/v2/ghcr.io?ns=ghcr.io", "", Naming{}, "ghcr.io ghcr.io"},
		{"ns with a port", "/v2/app?ns=reg.acme.com:5443", "", Naming{}, "reg.acme.com:5443 app"},
		{"ns with another port", "/v2/app?ns=reg.acme.com:5444", "", Naming{}, `403 registry "reg.acme.com:5444" is not configured on this node: did you mean reg.acme.com:5443? Else add it under registries:`},
		{"an alias is no host: it stays", "/v2/example/app?ns=reg.acme.com:5443", "", Naming{}, "reg.acme.com:5443 example/app"},
		{"ns by alias", "/v2/app?ns=example", "", Naming{}, "reg.acme.com:5443 app"},
		{"unknown ns", "/v2/app?ns=x.example", "", Naming{}, `403 registry "x.example" is not configured on this node: add it under registries:`},
		{"an address as ns", "/v2/app?ns=169.254.169.254", "", Naming{}, `403 registry "169.254.169.254"`},
		{"a URL as ns", "/v2/app?ns=http%3A%2F%2Fdocker.io%2F", "", Naming{}, `403 registry "http://docker.io/"`},

		{"path", "/ghcr.io/v2/acme/app", "", Naming{}, "ghcr.io acme/app"},
		{"path and the same in the name", "/ghcr.io/v2/ghcr.io/acme/app", "", Naming{}, "ghcr.io acme/app"},
		{"path with port form", "/reg.acme.com_5443/v2/app", "", Naming{}, "reg.acme.com:5443 app"},
		{"unknown path", "/x.example/v2/app", "", Naming{}, `403 registry "x.example"`},
		{"path that is no registry", "/acme/v2/app", acme, Naming{}, `403 registry "acme"`},

		{"name", "/v2/ghcr.io/acme/app", "", Naming{}, "ghcr.io acme/app"},
		{"name: one component", "/v2/ghcr.io/app", "", Naming{}, "ghcr.io app"},
		{"name: port form", "/v2/reg.acme.com_5443/team/app", "", Naming{}, "reg.acme.com:5443 team/app"},
		{"name: alias", "/v2/example/team/app", "", Naming{}, "reg.acme.com:5443 team/app"},
		{"name: an alias alone is an image", "/v2/example", "", Naming{}, "docker.io library/example"},
		{"name: a registry alone", "/v2/ghcr.io", "", Naming{}, "403 ghcr.io is a registry: name an image in it"},
		{"name: unknown host", "/v2/x.example/app", "", Naming{}, `403 registry "x.example" is not configured on this node: add it under registries:`},
		{"name: unknown host with port", "/v2/x.example_5000/app", "", Naming{}, `403 registry "x.example_5000"`},
		{"name: localhost", "/v2/localhost/app", "", Naming{}, `403 registry "localhost"`},
		{"name: localhost with port", "/v2/localhost_5000/app", "", Naming{}, `403 registry "localhost_5000"`},
		{"name: a dot in an image alone", "/v2/node.js", "", Naming{}, "docker.io library/node.js"},
		{"name: mirror folders of others", "/v2/example/docker.io/library/nginx", "", Naming{}, "reg.acme.com:5443 docker.io/library/nginx"},
		{"name: of a name with an endpoint in it", "/v2/ghcr.io/acme/manifests/app", "", Naming{}, "ghcr.io acme/manifests/app"},

		{"default", "/v2/acme/app", "", Naming{}, "docker.io acme/app"},
		{"another default", "/v2/acme/app", "", Naming{Default: "ghcr.io"}, "ghcr.io acme/app"},
		{"another default, one component", "/v2/app", "", Naming{Default: "ghcr.io"}, "ghcr.io app"},
		{"the organisation's own as default", "/v2/app", acme, Naming{Default: "mine"}, "private.acme.com app"},
		{"an unknown default", "/v2/app", "", Naming{Default: "x.example"}, `403 registry "x.example"`},

		{"own registry", "/v2/private.acme.com/app", acme, Naming{}, "private.acme.com app"},
		{"own registry by alias", "/v2/mine/app", acme, Naming{}, "private.acme.com app"},
		{"another's registry", "/v2/private.acme.com/app", "globex", Naming{}, `403 registry "private.acme.com"`},
		{"another's registry by ns", "/v2/app?ns=private.acme.com", "globex", Naming{}, `403 registry "private.acme.com"`},
		{"another's registry by path", "/private.acme.com/v2/app", "globex", Naming{}, `403 registry "private.acme.com"`},
		{"another's registry, by nobody", "/v2/private.acme.com/app", "", Naming{}, `403 registry "private.acme.com"`},
		{"another's alias is a folder", "/v2/mine/app", "globex", Naming{}, "docker.io mine/app"},

		{"organisation", "/v2/acme/ghcr.io/acme/app", acme, Naming{}, "ghcr.io acme/app"},
		{"organisation and hub", "/v2/acme/docker.io/nginx", acme, Naming{}, "docker.io library/nginx"},
		{"organisation and alias", "/v2/acme/example/app", acme, Naming{}, "reg.acme.com:5443 app"},
		{"organisation and own registry", "/v2/acme/private.acme.com/app", acme, Naming{}, "private.acme.com app"},
		{"organisation and ns", "/v2/acme/ghcr.io/acme/app?ns=ghcr.io", acme, Naming{}, "ghcr.io acme/app"},
		{"organisation and path", "/ghcr.io/v2/acme/ghcr.io/acme/app", acme, Naming{}, "ghcr.io acme/app"},
		{"another's organisation", "/v2/acme/ghcr.io/acme/app", "globex", Naming{}, "403 organisation globex: the name acme/ghcr.io/... belongs to organisation acme"},
		{"another's organisation by ns", "/v2/acme/ghcr.io/acme/app?ns=ghcr.io", "globex", Naming{}, "403 organisation globex"},
		{"somebody's organisation, by nobody", "/v2/acme/ghcr.io/acme/app", "", Naming{}, "403 a caller without an organisation"},
		{"two components are an image", "/v2/acme/example", acme, Naming{}, "docker.io acme/example"},
		{"mirror folders with ns", "/v2/team/docker.io/library/nginx?ns=reg.acme.com:5443", acme, Naming{}, "reg.acme.com:5443 team/docker.io/library/nginx"},
		{"own name and an alias with ns", "/v2/acme/example/app?ns=example", acme, Naming{}, "reg.acme.com:5443 acme/example/app"},
		{"a repository of the organisation's name", "/v2/acme/app", acme, Naming{}, "docker.io acme/app"},

		{"required: there", "/v2/acme/ghcr.io/acme/app", acme, Naming{OrganisationRequired: true}, "ghcr.io acme/app"},
		{"required: missing", "/v2/ghcr.io/acme/app", acme, Naming{OrganisationRequired: true}, "403 organisation acme: names on this port begin with the organisation and the registry: after host and port write acme/ghcr.io/acme/app"},
		{"required: missing, bare", "/v2/nginx", acme, Naming{OrganisationRequired: true}, "403 organisation acme: names on this port begin with the organisation and the registry: after host and port write acme/docker.io/library/nginx"},
		{"required: missing, with a port", "/v2/app?ns=reg.acme.com:5443", acme, Naming{OrganisationRequired: true}, "write acme/reg.acme.com_5443/app"},
		{"required: another's", "/v2/globex/ghcr.io/app", acme, Naming{OrganisationRequired: true}, "403 organisation acme: the name globex/ghcr.io/..."},
		{"required: by path does not count", "/ghcr.io/v2/acme/app", acme, Naming{OrganisationRequired: true}, "403 organisation acme"},
		{"required: there, before what is no registry", "/v2/acme/reg.exmple.com/acme/app", acme, Naming{OrganisationRequired: true}, `403 registry "reg.exmple.com" is not configured on this node`},
		{"required: there, before another's registry", "/v2/globex/private.acme.com/app", "globex", Naming{OrganisationRequired: true}, `403 registry "private.acme.com" is not configured on this node`},
		{"a mistyped registry after the organisation", "/v2/acme/reg.exmple.com/acme/app", acme, Naming{}, `403 registry "reg.exmple.com" is not configured on this node`},
		{"a mistyped registry names those there are", "/v2/ghrc.io/acme/app", acme, Naming{}, `or write one of those that are there (docker.io, ghcr.io, private.acme.com, reg.acme.com:5443, same.example.org)`},
		{"a mistyped registry, and what was meant", "/v2/docker.oi/nginx", "", Naming{}, `403 registry "docker.oi" is not configured on this node: did you mean docker.io? Else add it under registries:`},
		{"what was meant is not another's", "/v2/private.acme.co/app", "globex", Naming{}, `is not configured on this node: add it under registries:`},
		{"and not those of others", "/v2/ghrc.io/acme/app", "globex", Naming{}, `or write one of those that are there (docker.io, ghcr.io, reg.acme.com:5443, same.example.org)`},
		{"a dot below the organisation's namespace elsewhere", "/v2/acme/reg.exmple.com/app", acme, Naming{Default: "ghcr.io"}, "ghcr.io acme/reg.exmple.com/app"},
		{"a dot in the organisation's repository at Docker Hub", "/v2/acme/node.js", acme, Naming{}, "docker.io acme/node.js"},
		{"required: there, before no host", "/v2/acme/team/app", acme, Naming{OrganisationRequired: true}, "403 organisation acme: names on this port begin with the organisation and the registry: after host and port write acme/docker.io/team/app (or acme/docker.io/acme/team/app, if that is its name there)"},
		{"required: the organisation without a registry", "/v2/acme/nginx", acme, Naming{OrganisationRequired: true}, "after host and port write acme/docker.io/library/nginx (or acme/docker.io/acme/nginx, if that is its name there)"},
		{"required: of nobody", "/v2/nginx", "", Naming{OrganisationRequired: true}, "403 names on this port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, query, _ := strings.Cut(c.path, "?")
			req := parse(t, path+"/manifests/1?"+query)
			route, err := router.Route(&req, c.organisation, c.naming)
			var got string
			if err != nil {
				e := oci.AsError(err)
				got = http.StatusText(e.HTTPStatus())
				switch e.HTTPStatus() {
				case http.StatusNotFound:
					got = "404 " + e.Message
					if e.WireCode() != oci.CodeNameUnknown {
						t.Errorf("code %s", e.WireCode())
					}
				case http.StatusForbidden:
					got = "403 " + e.Message
					if e.WireCode() != oci.CodeDenied {
						t.Errorf("code %s", e.WireCode())
					}
				}
			} else {
				got = route.Registry.Name + " " + route.Repo
			}
			if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestRouteLongLibraryName(t *testing.T) {
	req := parse(t, "/v2/"+strings.Repeat("a", 250)+"/manifests/1")
	_, err := testRouter(t).Route(&req, "", Naming{})
	if e := oci.AsError(err); e == nil || e.HTTPStatus() != http.StatusBadRequest {
		t.Errorf("library/ made a name of 258 characters: %v", err)
	}
}

func TestLookup(t *testing.T) {
	router := testRouter(t)
	for _, c := range []struct{ organisation, name, want string }{
		{"", "docker.io", "docker.io"},
		{"", "Registry-1.Docker.io", "docker.io"},
		{"", "reg.acme.com:5443", "reg.acme.com:5443"},
		{"", "reg.acme.com_5443", "reg.acme.com:5443"},
		{"", "EXAMPLE", "reg.acme.com:5443"},
		{"", "reg.acme.com", ""},
		{"", "private.acme.com", ""},
		{"acme", "private.acme.com", "private.acme.com"},
		{"acme", "ghcr.io", "ghcr.io"},
		{"nobody", "private.acme.com", ""},
	} {
		r, ok := router.Lookup(c.organisation, c.name)
		if ok != (c.want != "") || ok && r.Name != c.want {
			t.Errorf("%q for %q is %v, want %q", c.name, c.organisation, r, c.want)
		}
	}
	own, _ := router.Lookup("acme", "same.example.org")
	other, _ := router.Lookup("globex", "same.example.org")
	if own == nil || other == nil || own == other || own.Organisation != "acme" || other.Organisation != "globex" {
		t.Errorf("two organisations' registries of one name: %v, %v", own, other)
	}
}

func TestNewRouterRefuses(t *testing.T) {
	hub := &registry.Spec{Name: "docker.io"}
	for name, c := range map[string]struct {
		registries []*registry.Spec
		want       string
	}{
		"twice":                     {[]*registry.Spec{hub, {Name: "docker.io"}}, `"docker.io" already means docker.io`},
		"two names of hub":          {[]*registry.Spec{hub, {Name: "index.docker.io"}}, "already means docker.io"},
		"an alias that is a name":   {[]*registry.Spec{hub, {Name: "a.example", Place: registry.Place{Aliases: []string{"docker.io"}}}}, "already means docker.io"},
		"an alias of two":           {[]*registry.Spec{{Name: "a.example", Place: registry.Place{Aliases: []string{"x"}}}, {Name: "b.example", Place: registry.Place{Aliases: []string{"x"}}}}, `"x" already means a.example`},
		"the port form":             {[]*registry.Spec{{Name: "a.example:1"}, {Name: "a.example_1"}}, "already means a.example:1"},
		"an organisation's of all":  {[]*registry.Spec{{Name: "a.example", Organisation: "acme"}, {Name: "a.example"}}, "already means a.example"},
		"an organisation's alias":   {[]*registry.Spec{{Name: "a.example", Organisation: "acme", Place: registry.Place{Aliases: []string{"docker.io"}}}, hub}, "already means docker.io"},
		"an organisation's twice":   {[]*registry.Spec{{Name: "a.example", Organisation: "acme"}, {Name: "a.example", Organisation: "acme"}}, "organisation acme"},
		"an organisation's name":    {[]*registry.Spec{{Name: "b.example", Organisation: "docker.io"}, hub}, "called like a registry"},
		"no name":                   {[]*registry.Spec{{}}, "cannot be part of an image name"},
		"a path":                    {[]*registry.Spec{{Name: "a.example/team"}}, "cannot be part of an image name"},
		"an address with brackets":  {[]*registry.Spec{{Name: "[::1]:5000"}}, "cannot be part of an image name"},
		"an alias that is no name":  {[]*registry.Spec{{Name: "a.example", Place: registry.Place{Aliases: []string{"a b"}}}}, "cannot be part of an image name"},
		"a scheme":                  {[]*registry.Spec{{Name: "https://a.example"}}, "cannot be part of an image name"},
		"an organisation's is path": {[]*registry.Spec{{Name: "a/b", Organisation: "acme"}}, "organisation acme"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewRouter(c.registries)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzRoute(f *testing.F) {
	router := testRouter(f)
	for _, s := range []string{
		"/v2/docker.io/library/nginx/manifests/1", "/v2/acme/ghcr.io/acme/app/manifests/1", "/ghcr.io/v2/a/manifests/x?ns=docker.io",
		"/v2/private.acme.com/app/tags/list?ns=private.acme.com", "/v2/same.example.org/a/manifests/1", "/v2/globex/same.example.org/a/manifests/1",
	} {
		for _, organisation := range []string{"", "acme", "globex"} {
			f.Add(s, organisation, false)
		}
	}
	f.Fuzz(func(t *testing.T, target, organisation string, required bool) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		req, err := oci.ParseRequest(http.MethodGet, u)
		if err != nil || req.Endpoint == oci.EndpointPing {
			return
		}
		route, err := router.Route(&req, organisation, Naming{OrganisationRequired: required})
		if err != nil {
			if e := oci.AsError(err); e.HTTPStatus() < 400 || e.HTTPStatus() > 404 || e.Message == "" {
				t.Errorf("%q: %d %q", target, e.HTTPStatus(), e.Message)
			}
			return
		}
		if !oci.ValidName(route.Repo) {
			t.Errorf("%q was routed to %q", target, route.Repo)
		}
		if owner := route.Registry.Organisation; owner != "" && owner != organisation {
			t.Errorf("%q of %q went to a registry of %q", target, organisation, owner)
		}
		if required && !strings.HasPrefix(req.Name, organisation+"/") {
			t.Errorf("%q of %q passed without its organisation", target, organisation)
		}
	})
}
