package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// world is a home with registries as a node knows them: Docker Hub, GHCR, and
// one of a company on a port of its own.
type world struct {
	*home
	hub, ghcr, corp *ocitest.Registry

	nginx, app, tool ocitest.Pushed
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{home: newHome(t)}
	w.hub = ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer})
	w.ghcr = ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, Refusal: ocitest.RefuseAtToken, BadPassword: http.StatusForbidden})
	w.corp = ocitest.New(t, ocitest.Options{Auth: ocitest.Basic, Private: true, TLS: true, HTTP2: true})
	w.nginx = w.hub.AddImage("library/nginx", "1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{3000, 5000}, Seed: 1})
	w.app = w.ghcr.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{3000, 6000}, Seed: 2})
	w.tool = w.corp.AddImage("team/tool", "1", ocitest.Image{Layers: []int64{2000}, Seed: 3, Docker: true})
	w.ghcr.AddUser("acme-bot", "ghcr-secret", "acme/**")
	w.corp.AddUser("acme-corp", "corp-secret", "**")
	w.registry("docker.io", w.hub)
	w.registry("ghcr.io", w.ghcr)
	w.registry("reg.acme.com:5443", w.corp, "aliases: [corp]")
	w.tenant("acme")
	w.tenant("globex")
	w.credential("acme", "ci", "ghcr.io", "acme-bot", "ghcr-secret")
	w.credential("acme", "ci", "reg.acme.com:5443", "acme-corp", "corp-secret")
	return w
}

func TestOneImageHasManyNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.serve()
	acme := w.as(n, "acme")
	for _, c := range []struct {
		image ocitest.Pushed
		names []string // behind /v2/, perhaps with a query
	}{
		{w.nginx, []string{
			"docker.io/library/nginx", "docker.io/nginx", "nginx", "library/nginx?ns=docker.io",
			"library/nginx", "nginx?ns=docker.io", "docker.io/library/nginx?ns=docker.io", "docker.io/nginx?ns=docker.io",
			"index.docker.io/library/nginx", "registry-1.docker.io/nginx", "nginx?ns=index.docker.io", "nginx?ns=registry-1.docker.io",
			"acme/docker.io/nginx", "acme/docker.io/library/nginx",
		}},
		{w.app, []string{"ghcr.io/acme/app", "acme/app?ns=ghcr.io", "ghcr.io/acme/app?ns=ghcr.io", "acme/ghcr.io/acme/app"}},
		{w.tool, []string{
			"corp/team/tool", "reg.acme.com_5443/team/tool", "team/tool?ns=reg.acme.com:5443", "team/tool?ns=corp", "team/tool?ns=reg.acme.com_5443",
			"acme/reg.acme.com_5443/team/tool", "acme/corp/team/tool",
		}},
	} {
		for _, name := range c.names {
			path, query, _ := strings.Cut(name, "?")
			if query != "" {
				query = "?" + query
			}
			acme.mustPull(path, c.image, query)
		}
	}
	if gets := w.hub.ManifestGETs() + w.ghcr.ManifestGETs() + w.corp.ManifestGETs(); gets != 4 {
		t.Errorf("%d manifests were fetched for all these names, not the 4 that there are", gets)
	}
}

// A registry in front of /v2/, as mirror settings of some clients want it.
func TestRegistryBeforeTheVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.as(w.serve(), "acme")
	door := acme.base
	for prefix, c := range map[string]struct {
		name  string
		image ocitest.Pushed
	}{
		"/docker.io":         {"library/nginx", w.nginx},
		"/index.docker.io":   {"nginx", w.nginx},
		"/ghcr.io":           {"acme/app", w.app},
		"/corp":              {"team/tool", w.tool},
		"/reg.acme.com_5443": {"team/tool", w.tool},
	} {
		acme.base = door + prefix
		acme.mustPull(c.name, c.image, "")
	}
}

func TestListenerSaysWhatAShortNameMeans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.listeners[tokenDoor] = `{address: "127.0.0.1:0", callers: token, registry: ghcr.io}`
	acme := w.as(w.serve(), "acme")
	acme.mustPull("acme/app", w.app, "")
	acme.mustPull("docker.io/nginx", w.nginx, "")
}

// A name that begins with an organisation keeps two of them apart inside one
// dockerd. It proves nothing.
func TestOrganisationInName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.listeners = append(w.listeners, `{address: "127.0.0.1:0", callers: token, organisation_in_name: required}`)
	n := w.serve()
	manifest := "/v2/acme/ghcr.io/acme/app/manifests/1"
	w.as(n, "globex").mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)
	w.nobody(n).mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)
	// Nor is it ignored where everyone may have the image.
	w.as(n, "globex").mustRefuse("/v2/acme/docker.io/nginx/manifests/1", http.StatusForbidden, oci.CodeDenied)
	w.nobody(n).mustRefuse("/v2/acme/docker.io/nginx/manifests/1", http.StatusForbidden, oci.CodeDenied)

	strict := w.as(n, "acme")
	strict.base = n.doors[2]
	strict.mustPull("acme/ghcr.io/acme/app", w.app, "")
	a := strict.mustRefuse("/v2/ghcr.io/acme/app/manifests/1", http.StatusForbidden, oci.CodeDenied)
	if !strings.Contains(a.message(), "acme/ghcr.io/acme/app") {
		t.Errorf("the message does not say how to write it: %s", a.message())
	}
	if n := len(w.ghcr.Requests(ocitest.Match{Repo: "acme/app", User: ocitest.Anonymous})); n != 0 {
		t.Errorf("%d requests to the registry as nobody", n)
	}
}

// An unknown host must not be looked up: a name server is told of every image
// name with a typing error, and whoever can make a node ask one can make it
// tell. The last line shows that this name server would have noticed.
func TestUnknownRegistryIsNotLookedUp(t *testing.T) {
	t.Parallel()
	names := newNameServer(t)
	w := newWorld(t)
	w.endpoint("known.test", "https://known.test")
	n := w.run(watchedResolver + "=" + names.addr())
	for _, c := range []*client{w.as(n, "acme"), w.nobody(n)} {
		for _, path := range []string{
			"/v2/x.example/app/manifests/1",
			"/v2/x.example/team/app/blobs/" + w.app.Digest.String(),
			"/v2/localhost/app/manifests/1",
			"/v2/reg.acme.com_9999/team/tool/manifests/1",
			"/v2/reg.acme.com/team/tool/manifests/1",
			"/v2/app/manifests/1?ns=x.example",
			"/v2/nginx/manifests/1?ns=x.example",
			"/v2/docker.io/library/nginx/manifests/1?ns=x.example",
			"/v2/app/tags/list?ns=127.0.0.1:1",
			"/v2/app/referrers/" + w.app.Digest.String() + "?ns=x.example",
			"/x.example/v2/app/manifests/1",
			"/v2/?ns=x.example",
		} {
			a := c.mustRefuse(path, http.StatusForbidden, oci.CodeDenied)
			if !strings.Contains(a.message(), "is not configured on this node: add it under registries:") {
				t.Errorf("%s: %s", path, a.message())
			}
		}
	}
	if asked := names.asked(); len(asked) > 0 {
		t.Errorf("the name server was asked for %q", asked)
	}
	for _, r := range []*ocitest.Registry{w.hub, w.ghcr, w.corp} {
		if all := r.Requests(ocitest.Match{}); len(all) > 0 {
			t.Errorf("a registry was asked: %v", all)
		}
	}
	w.nobody(n).mustRefuse("/v2/known.test/app/manifests/1", http.StatusServiceUnavailable, oci.CodeUnknown)
	if asked := names.asked(); len(asked) == 0 {
		t.Error("the name server was not asked for a host that is configured, so it would not have noticed the others")
	}
}

func TestWritesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.serve()
	digest := w.nginx.Digest.String()
	for _, c := range []*client{w.as(n, "acme"), w.nobody(n)} {
		for _, write := range []string{
			"POST /v2/nginx/blobs/uploads/",
			"POST /v2/nginx/blobs/uploads/?digest=" + digest,
			"POST /v2/nginx/blobs/uploads/?mount=" + digest + "&from=library/other",
			"PATCH /v2/nginx/blobs/uploads/1234",
			"PUT /v2/nginx/blobs/uploads/1234?digest=" + digest,
			"PUT /v2/ghcr.io/acme/app/manifests/1",
			"PUT /v2/nginx/manifests/" + digest,
			"DELETE /v2/nginx/manifests/1",
			"DELETE /v2/nginx/manifests/" + digest,
			"DELETE /v2/nginx/blobs/" + digest,
			"DELETE /v2/nginx/blobs/uploads/1234",
			"PUT /docker.io/v2/nginx/manifests/1",
			"PUT /v2/x.example/app/manifests/1",
			"POST /v2/",
		} {
			method, path, _ := strings.Cut(write, " ")
			if a := c.do(method, path); a.status != http.StatusMethodNotAllowed || a.code() != string(oci.CodeUnsupported) {
				t.Errorf("%s\nwant 405 UNSUPPORTED", a)
			}
		}
		// containerd takes a 405 to HEAD for "use GET", and asks again.
		for _, path := range []string{
			"/", "/v2", "/v2/", "/v1/", "/v2/nginx/blobs/uploads/", "/v2/nginx/blobs/uploads/1234", "/v2/nginx/manifests/1", "/v2/nginx/blobs/" + digest,
			"/v2/nginx/tags/list", "/v2/nginx/referrers/" + digest, "/v2/_catalog", "/v2/nginx/manifests/", "/v2/Nginx/manifests/1", "/v2/x.example/a/manifests/1",
		} {
			if a := c.head(path); a.status == http.StatusMethodNotAllowed || a.status == 0 || a.status >= 500 {
				t.Errorf("%s", a)
			}
		}
	}
	for _, r := range w.hub.Requests(ocitest.Match{}) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			t.Errorf("a write went upstream: %v", r)
		}
	}
}

// Where tokens are wanted, nobody learns anything without one: not what is
// cached, not which registries there are.
func TestNoTokenNoAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.serve()
	w.as(n, "acme").mustPull("ghcr.io/acme/app", w.app, "")
	w.ghcr.Forget()
	w.hub.Forget()
	for what, c := range map[string]*client{
		"nobody":                 {},
		"a wrong token":          {user: "acme", password: "wrong"},
		"another's token":        {user: "acme", password: w.organisations["globex"].token},
		"an unknown one":         {user: "initech", password: w.organisations["acme"].token},
		"no token":               {user: "acme"},
		"an account, no token":   {user: "acme+ci"},
		"another's with account": {user: "globex+ci", password: w.organisations["acme"].token},
	} {
		c := &client{t: t, base: n.doors[tokenDoor], user: c.user, password: c.password, http: w.client("").http}
		for _, path := range []string{
			"/v2/", "/v2/ghcr.io/acme/app/manifests/1", "/v2/ghcr.io/acme/app/blobs/" + w.app.Platforms[0].Config.String(),
			"/v2/ghcr.io/acme/app/tags/list", "/v2/nginx/manifests/1", "/v2/x.example/app/manifests/1", "/v2/?ns=x.example", "/v2/acme/ghcr.io/acme/app/manifests/1",
		} {
			a := c.mustRefuse(path, http.StatusUnauthorized, oci.CodeUnauthorized)
			if got := a.header.Values("Www-Authenticate"); len(got) != 1 || !strings.HasPrefix(got[0], "Basic ") {
				t.Errorf("%s: %s is challenged by %q, not by Basic once", what, path, got)
			}
		}
	}
	if all := append(w.ghcr.Requests(ocitest.Match{}), w.hub.Requests(ocitest.Match{})...); len(all) > 0 {
		t.Errorf("registries were asked: %v", all)
	}
	if _, err := w.as(n, "acme+none").pull("ghcr.io/acme/app", "1", ""); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("an account that there is not: %v", err)
	}
	if a := w.as(n, "acme+none").mustRefuse("/v2/", http.StatusForbidden, oci.CodeDenied); !strings.Contains(a.message(), `organisation acme has no account "none": log in with one that it has`) {
		t.Errorf("a login with it: %s", a)
	}
	if a := w.as(n, "acme+ci").get("/v2/"); a.status != http.StatusOK {
		t.Errorf("a login with one that there is: %s", a)
	}
	w.as(n, "acme+ci").mustPull("ghcr.io/acme/app", w.app, "")
}

// The user of registry:2: five Docker hosts, trouble with Docker Hub, and no
// wish to hear of organisations.
func TestNoOrganisationsAtAll(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, PullLimit: 100, OneCopy: true})
	image := hub.AddImage("library/nginx", "1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{30_000, 2 << 20}})
	hub.AddRepo("library/private")
	hub.SetPrivate("library/private", true)
	h.registry("docker.io", hub)
	h.listeners = []string{`{address: "127.0.0.1:0"}`}
	n := h.serve()
	c := h.client(n.doors[0])
	for range 5 {
		c.mustPull("nginx", image, "")
	}
	if n := hub.ManifestGETs(); n != 2 {
		t.Errorf("5 pulls cost %d of the pull limit", n)
	}
	// Whatever a client has in its configuration for this host, is ignored.
	c.user, c.password = "someone", "something"
	c.mustPull("nginx", image, "")
	if a := c.get("/v2/"); a.status != http.StatusOK || a.header.Get("Www-Authenticate") != "" || a.header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		t.Errorf("%s with %v", a, a.header)
	}
	c.mustRefuse("/v2/library/private/manifests/1", http.StatusForbidden, oci.CodeDenied)
	if used := hub.Requests(ocitest.Match{Where: func(r ocitest.Request) bool { return r.User != "" }}); len(used) > 0 {
		t.Errorf("asked with an account: %v", used)
	}
}

// A web page on the node reaches localhost, by a name that resolves to it.
func TestWebPagesAreKeptOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.serve()
	c := w.nobody(n)
	for _, header := range [][2]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}} {
		c.mustRefuse("/v2/nginx/manifests/1", http.StatusForbidden, oci.CodeDenied, header[0], header[1])
	}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/v2/", http.NoBody)
	req.RequestURI, req.Host = "", "rebound.example:5000"
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("a name that is not listed gets %d", resp.StatusCode)
	}
	n.await("the log says what to add", func() bool { return strings.Contains(n.log.String(), "rebound.example") })
}
