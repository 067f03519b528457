package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// The answers that registries, and what stands before them, give instead of a no: a
// single sign-on answers a login page or sends to one, others a status of their own
// for an account that is suspended.
func riddles(t *testing.T) map[string]ocitest.Fault {
	t.Helper()
	page := func(status int) ocitest.Fault {
		return ocitest.Fault{Status: status, Body: []byte("<html>sign in"), Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}}
	}
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>sign in")) // the client reads it or not
	}))
	t.Cleanup(login.Close)
	all := map[string]ocitest.Fault{
		"a login page":               page(200),
		"a page with 401":            page(401),
		"a page with 403":            page(403),
		"a page with 404":            page(404),
		"sent to a login page":       ocitest.Status(http.StatusFound, "Location", login.URL+"/login"),
		"sent where nobody follows":  ocitest.Status(http.StatusFound, "Location", "ftp://login.example/"),
		"sent inside the network":    ocitest.Status(http.StatusFound, "Location", "http://10.1.2.3/login"),
		"204":                        ocitest.Status(http.StatusNoContent),
		"JSON that is no manifest":   {Status: 200, Body: []byte(`{"error":"account suspended"}`), Header: http.Header{"Content-Type": {"application/json"}}},
		"503 with a reason, no, 511": {Status: 511, Body: []byte("log in to the network")},
	}
	for _, status := range []int{400, 405, 406, 409, 416, 418, 422, 423, 426, 431} {
		all[http.StatusText(status)] = ocitest.Fault{Status: status, Body: []byte("no")}
	}
	return all
}

// An answer that is neither yes nor no is no reason to serve what is kept for a day:
// it counts for cache.doubt after the last yes, and neither the registry's silence
// afterwards nor a restart brings the day back.
func TestDoubt_AnswersThatAreNeitherYesNorNo(t *testing.T) {
	t.Parallel()
	for name, fault := range riddles(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGone(t, ocitest.Options{Private: true})
			g.registries = nil
			g.home.registry("ghcr.io", g.registry, "allow_private: [127.0.0.0/8]")
			n := g.serve()
			g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
			g.as(n, "globex").mustPull("ghcr.io/acme/app", g.image, "")
			g.clock.forward(30 * time.Minute)
			asked := ocitest.Match{User: "acme-bot", Server: ocitest.RegistryServer, Where: func(r ocitest.Request) bool {
				return r.Kind == ocitest.Manifest || r.Kind == ocitest.Blob
			}}
			riddle := g.registry.Inject(asked, 0, fault)
			g.stale(g.as(n, "acme"))
			g.clock.forward(31 * time.Minute)
			g.held(g.as(n, "acme"))
			riddle.Remove()
			silence := g.registry.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "60"))
			g.held(g.as(n, "acme"))
			g.stale(g.as(n, "globex")) // nobody has put its right in doubt
			n.stop()
			n = g.serve()
			g.held(g.as(n, "acme"))
			g.stale(g.as(n, "globex"))
			silence.Remove()
			g.clock.forward(time.Minute)
			g.as(n, "acme").await("/v2/ghcr.io/acme/app/"+g.paths[1], http.StatusOK) // once the breaker lets a call through
			g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
			g.registry.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "60"))
			g.clock.forward(2 * time.Hour)
			g.stale(g.as(n, "acme")) // a yes, and then silence: grace
		})
	}
}

// The first riddle may also come when the proof is old already.
func TestDoubt_OfAnOldProof(t *testing.T) {
	t.Parallel()
	for name, fault := range riddles(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGone(t, ocitest.Options{Private: true})
			g.registries = nil
			g.home.registry("ghcr.io", g.registry, "allow_private: [127.0.0.0/8]")
			n := g.serve()
			g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
			g.clock.forward(23 * time.Hour)
			g.registry.Inject(ocitest.Match{Kind: ocitest.Manifest}, 0, fault)
			g.registry.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, fault)
			g.held(g.as(n, "acme"))
		})
	}
}

// At the token endpoint a riddle is one too; its 401 is the credential's refusal,
// however it is written.
func TestDoubt_AtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	for name, fault := range riddles(t) {
		if name == "a page with 401" || name == "204" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGone(t, ocitest.Options{Private: true})
			n := g.serve()
			g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
			g.clock.forward(30 * time.Minute)
			g.registry.ExpireTokens()
			g.registry.Inject(ocitest.Match{Kind: ocitest.Token}, 0, fault)
			g.stale(g.as(n, "acme"))
			g.clock.forward(31 * time.Minute)
			g.held(g.as(n, "acme"))
		})
	}
}

// A redirect target is no authority on rights, so what it says denies nothing. What is
// no answer is one thing there too, and what is not understood another.
func TestDoubt_AtARedirectTarget(t *testing.T) {
	t.Parallel()
	all := riddles(t)
	for name, c := range map[string]struct {
		fault ocitest.Fault
		doubt bool
	}{
		"its storage refuses": {ocitest.Fault{Status: 403, Body: []byte("<Error><Code>AccessDenied</Code></Error>"), Header: http.Header{"Content-Type": {"application/xml"}}}, true},
		"a page":              {all["a login page"], true},
		"a page with 403":     {all["a page with 403"], true},
		"400":                 {all[http.StatusText(http.StatusBadRequest)], true},
		"404 of a storage":    {ocitest.Fault{Status: 404, Body: []byte("<Error/>"), Header: http.Header{"Content-Type": {"application/xml"}}}, true},
		"a limit":             {ocitest.Status(http.StatusTooManyRequests, "Retry-After", "30"), true},
		"503":                 {ocitest.Status(http.StatusServiceUnavailable), false},
		"a page with 503":     {ocitest.Fault{Status: 503, Body: []byte("<html>we are working on it"), Header: http.Header{"Content-Type": {"text/html"}}}, false},
		"no reply":            {ocitest.Drop(), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGone(t, ocitest.Options{Private: true, CDN: ocitest.CDNSame})
			g.registries = nil
			g.home.registry("ghcr.io", g.registry, "allow_private: [127.0.0.0/8]")
			n := g.serve()
			acme := g.as(n, "acme")
			acme.mustPull("ghcr.io/acme/app", g.image, "")
			g.paths = g.paths[4:] // the registry sends manifests itself, and says yes by them
			g.clock.forward(30 * time.Minute)
			g.registry.Inject(ocitest.Match{Server: ocitest.CDNServer}, 0, c.fault)
			g.stale(acme)
			g.clock.forward(31 * time.Minute)
			if c.doubt {
				g.held(acme)
				return
			}
			g.stale(acme)
			g.clock.forward(12 * time.Hour)
			g.stale(acme)
		})
	}
}

// A page at a redirect target may be that of one target: the registry is asked for
// another one.
func TestDoubt_AnotherRedirectTarget(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true, CDN: ocitest.CDNSame})
	g.registries = nil
	g.home.registry("ghcr.io", g.registry, "allow_private: [127.0.0.0/8]")
	n := g.serve()
	in := g.registry.Inject(ocitest.Match{Server: ocitest.CDNServer, Kind: ocitest.Blob}, 1, riddles(t)["a login page"])
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	if in.Hits() != 1 {
		t.Errorf("the page was sent %d times", in.Hits())
	}
}

// held wants nothing of the image to go to c, whatever it is told.
func (g gone) held(c *client) {
	g.t.Helper()
	for _, path := range g.paths {
		if a := c.get("/v2/ghcr.io/acme/app/" + path); a.status < 400 || a.status == http.StatusTooManyRequests {
			g.t.Errorf("it goes out: %s", a)
		}
	}
}

// With doubt: 0s such an answer releases nothing at all: a program that was built, a
// registry that answers in riddles, falls silent, a restart, and a yes.
func TestDoubt_OfNothing(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true})
	g.cache["doubt"], g.cache["access_ttl"] = "0s", "1s"
	n := g.run()
	acme := g.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", g.image, "")
	riddle := g.registry.Inject(ocitest.Match{Server: ocitest.RegistryServer}, 0, ocitest.Fault{Status: http.StatusConflict, Body: []byte("suspended")})
	for _, path := range g.paths[1:] {
		acme.await("/v2/ghcr.io/acme/app/"+path, http.StatusServiceUnavailable) // once access_ttl is over
	}
	riddle.Remove()
	silence := g.registry.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "60"))
	g.held(acme)
	n.kill()
	n = g.run()
	acme = g.as(n, "acme")
	g.held(acme)
	silence.Remove()
	acme.await("/v2/ghcr.io/acme/app/"+g.paths[1], http.StatusOK) // once the breaker lets a call through
	acme.mustPull("ghcr.io/acme/app", g.image, "")
}

// A 401 that is a page, and has no challenge, is not the registry's: it says nothing
// about the account, also where that itself is what is sent.
func TestDoubt_APageRefusesNoAccount(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	r := ocitest.New(t, ocitest.Options{Auth: ocitest.Basic, Private: true, Now: h.clock.now})
	image := r.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{5000}})
	r.AddUser("acme-bot", "acme-secret", "acme/**")
	h.registry("reg.test", r)
	h.tenant("acme")
	h.credential("acme", "ci", "reg.test", "acme-bot", "acme-secret")
	n := h.serve()
	acme := h.as(n, "acme")
	acme.mustPull("reg.test/acme/app", image, "")
	h.clock.forward(30 * time.Minute)
	in := r.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }}, 0, riddles(t)["a page with 401"])
	if a := acme.get("/v2/reg.test/acme/app/manifests/1"); a.status != http.StatusOK || a.header.Get("Warning") == "" {
		t.Error(a)
	}
	in.Remove()
	acme.mustPull("reg.test/acme/app", image, "")
	if a := acme.get("/v2/reg.test/acme/app/manifests/1"); a.status != http.StatusOK || a.header.Get("Warning") != "" {
		t.Errorf("the account is left alone: %s", a)
	}
	if got := n.sample(`berth_credential_ok{account="ci",organisation="acme",registry="reg.test"}`); got != 1 {
		t.Errorf("berth_credential_ok is %v", got)
	}
}

// To those who share the principal of nobody nothing is secret: a page that is sent to
// everyone takes no public image from them, for as long as silence would not.
func TestDoubt_TakesNoPublicImages(t *testing.T) {
	t.Parallel()
	for _, riddle := range []string{"a login page", "a page with 403", "sent to a login page", http.StatusText(http.StatusBadRequest)} {
		t.Run(riddle, func(t *testing.T) {
			t.Parallel()
			g := newGone(t, ocitest.Options{})
			g.registries = nil
			g.home.registry("ghcr.io", g.registry, "allow_private: [127.0.0.0/8]")
			n := g.serve()
			g.nobody(n).mustPull("ghcr.io/acme/app", g.image, "")
			g.clock.forward(30 * time.Minute)
			g.registry.Inject(ocitest.Match{Server: ocitest.RegistryServer}, 0, riddles(t)[riddle])
			g.stale(g.nobody(n))
			g.clock.forward(20 * time.Hour)
			g.stale(g.nobody(n))
		})
	}
}
