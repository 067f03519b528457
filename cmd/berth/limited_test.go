package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// limited is a limit that is told for an hour.
func limited() ocitest.Fault {
	return ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down", "Retry-After", "3600")
}

// newRevoked is an image that acme and globex have pulled, and that globex has lost
// the right to, past access_ttl.
func newRevoked(t *testing.T) (g gone, n *running) {
	t.Helper()
	g = newGone(t, ocitest.Options{Private: true, LiveRights: true, Refusal: ocitest.RefuseForbidden, TokenTTL: 24 * time.Hour})
	g.registry.AddUser("globex-bot", "globex-secret", "acme/**", "globex/**")
	n = g.serve()
	for _, who := range []string{"acme", "globex"} {
		g.as(n, who).mustPull("ghcr.io/acme/app", g.image, "")
	}
	g.registry.SetRights("globex-bot", "globex/**")
	g.clock.forward(6 * time.Minute)
	return g, n
}

// Whoever has lost a right cannot keep the registry's no away by using himself up: one
// question goes out past the limit, and its answer counts. What he gets by that is one
// question for each access_ttl.
func TestLimited_ByOwnRequestsAfterARevocation(t *testing.T) {
	t.Parallel()
	for name, match := range map[string]ocitest.Match{
		"by the registry":       {User: "globex-bot", Repo: "globex/own"},
		"by the token endpoint": {Kind: ocitest.Token, Where: func(r ocitest.Request) bool { return fmt.Sprint(r.Scopes) == "[repository:globex/own:pull]" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, n := newRevoked(t)
			globex := g.as(n, "globex")
			g.registry.Inject(match, 0, limited())
			if a := globex.get("/v2/ghcr.io/globex/own/manifests/1"); a.status != http.StatusTooManyRequests {
				t.Fatal(a)
			}
			questions := ocitest.Match{Repo: "acme/app", Server: ocitest.RegistryServer, Where: func(r ocitest.Request) bool { return r.Method == http.MethodHead }} // a GET explains one
			before := g.registry.Count(questions)
			if a := globex.get("/v2/ghcr.io/acme/app/manifests/1"); a.status != http.StatusForbidden {
				t.Errorf("the one question past the limit: %s", a)
			}
			g.refused(globex)
			g.clock.forward(time.Minute)
			g.refused(globex)
			// Once with the token that was kept, which may have ended before it had said, and
			// once with a new one.
			if asked := g.registry.Count(questions) - before; asked != 2 {
				t.Errorf("the registry was asked %d times past the limit, want twice", asked)
			}
			g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
		})
	}
}

// Questions of his own that get no answer keep the registry's no away as little: they hold
// what he may have of its connections, and nothing that a right is asked with.
func TestLimited_ByHungRequestsAfterARevocation(t *testing.T) {
	t.Parallel()
	g, n := newRevoked(t)
	globex := g.as(n, "globex")
	gate := g.registry.Hold(ocitest.Match{Kind: ocitest.Manifest, Repo: "globex/own"})
	ctx, cancel := context.WithCancel(t.Context())
	wait := globex.floods(ctx, 200, func(i int) string { return fmt.Sprintf("/v2/ghcr.io/globex/own/manifests/t%d", i) })
	if err := gate.Wait(soon(t), 12); err != nil {
		t.Fatal(err)
	}
	g.refused(globex)
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	g.clock.forward(10 * time.Minute)
	g.refused(globex)
	cancel()
	gate.Open()
	wait()
}

// Whoever writes a drop-in does not lengthen by it what he may keep: where nobody answers,
// the grace of the main file is over for him as for everyone.
func TestGrace_OfADropIn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.dropIn("globex", "grace: 30d")
	n := s.serve()
	globex := s.caller(n, "globex")
	globex.mustPull(app, s.image, "")
	s.registry.Close()
	s.clock.forward(23 * time.Hour)
	if a := globex.get(manifest); a.status != http.StatusOK || a.header.Get("Warning") == "" {
		t.Errorf("within the main file's grace: %s", a)
	}
	s.clock.forward(2 * time.Hour)
	if a := globex.get(manifest); a.status != http.StatusServiceUnavailable {
		t.Errorf("after it: %s", a)
	}
}

// Where the registry answers nothing but limits, a right outlives them for doubt after
// it was last proven and no longer, whatever comes then: more limits, silence, a restart.
func TestLimited_ForHours(t *testing.T) {
	t.Parallel()
	g, n := newRevoked(t)
	globex := g.as(n, "globex")
	limit := g.registry.Inject(ocitest.Match{User: "globex-bot", Server: ocitest.RegistryServer}, 0, limited())
	g.stale(globex)
	g.clock.forward(53 * time.Minute)
	g.stale(globex)
	g.clock.forward(2 * time.Minute)
	g.refused(globex)
	for range 3 {
		g.clock.forward(4 * time.Hour)
		g.refused(globex)
	}
	limit.Remove()
	g.clock.forward(7 * time.Hour) // the last cool-down is over
	g.registry.Inject(ocitest.Match{User: "globex-bot", Server: ocitest.RegistryServer}, 0, ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "60"))
	g.refused(globex)
	n.stop()
	n = g.serve()
	g.refused(g.as(n, "globex"))
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
}

// Nobody gets requests past a limit by inventing names, and whoever has many proofs
// gets one a second.
func TestLimited_GivesNoFreeRequests(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true, TokenTTL: 24 * time.Hour})
	g.registry.AddUser("globex-bot", "globex-secret", "globex/**")
	const proven = 12
	for i := range proven {
		g.registry.AddImage(fmt.Sprintf("globex/app%d", i), "1", ocitest.Image{Layers: []int64{100}, Seed: uint64(i + 1)})
	}
	n := g.serve()
	globex := g.as(n, "globex")
	head := func(i int) { globex.head(fmt.Sprintf("/v2/ghcr.io/globex/app%d/manifests/1", i)) }
	for i := range proven {
		head(i)
	}
	g.clock.forward(6 * time.Minute)
	g.registry.Inject(ocitest.Match{Repo: "globex/own"}, 0, limited())
	globex.get("/v2/ghcr.io/globex/own/manifests/1")
	before, begin := g.registry.Count(ocitest.Match{}), time.Now()
	var all sync.WaitGroup
	for i := range 3 * proven { // most of them were never proven
		all.Go(func() { head(i) })
	}
	all.Wait()
	asked, most := g.registry.Count(ocitest.Match{})-before, 1+int(time.Since(begin)/time.Second)
	if asked < 1 || asked > most {
		t.Errorf("%d requests past the limit, want 1 to %d", asked, most)
	}
}
