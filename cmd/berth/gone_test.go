package main

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// gone is an image that acme has pulled, and that nobody else has.
type gone struct {
	costly
	paths []string
}

func newGone(t *testing.T, o ocitest.Options) gone {
	t.Helper()
	g := gone{costly: newCostly(t, o)}
	first := g.image.Platforms[0]
	g.paths = []string{
		"manifests/1", "manifests/" + g.image.Digest.String(), "manifests/" + first.Manifest.String(),
		"blobs/" + first.Config.String(), "blobs/" + first.Layers[1].String(), "blobs/" + first.Layers[2].String(),
	}
	return g
}

// stale wants all of it to be there for c, marked as what it is.
func (g gone) stale(c *client) {
	g.t.Helper()
	var all sync.WaitGroup // at once: each waits while upstream is tried again
	for _, path := range g.paths {
		all.Go(func() {
			want := oci.Digest(path[strings.LastIndex(path, "/")+1:])
			if want == "1" {
				want = g.image.Digest
			}
			a := c.get("/v2/ghcr.io/acme/app/" + path)
			if a.status != http.StatusOK || a.err != nil || oci.DigestOf(a.body) != want {
				g.t.Errorf("%s: want %s", a, want)
			}
			if w := a.header.Get("Warning"); !strings.HasPrefix(w, "299 ") {
				g.t.Errorf("%s: the warning is %q", a.what, w)
			}
		})
	}
	all.Wait()
}

// nothing wants every path to be refused with this status, and not a byte of
// the image in any answer.
func (g gone) nothing(status int, clients ...*client) {
	g.t.Helper()
	var all sync.WaitGroup // at once: each waits while upstream is tried again
	for _, c := range clients {
		for _, path := range g.paths {
			for _, header := range [][]string{nil, {"Range", "bytes=0-0"}, {"If-None-Match", `"` + path[strings.LastIndex(path, "/")+1:] + `"`}} {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					all.Go(func() { c.noAnswer(status, c.do(method, "/v2/ghcr.io/acme/app/"+path, header...)) })
				}
			}
		}
	}
	all.Wait()
}

// noAnswer wants a refusal that gives and tells nothing.
func (c *client) noAnswer(status int, a answer) {
	if a.status != status {
		c.t.Errorf("%s %s: want %d", c.user, a, status)
	}
	if status == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "" {
		c.t.Errorf("%s: no Retry-After", a)
	}
	if a.header.Get("Docker-Content-Digest") != "" || a.header.Get("Etag") != "" || a.header.Get("Content-Range") != "" {
		c.t.Errorf("%s tells of what it does not give: %v", a, a.header)
	}
	if len(a.body) > 2000 || bytes.Contains(a.body, []byte("schemaVersion")) {
		c.t.Errorf("%s %s", c.user, a)
	}
}

// The registry is gone: whoever had proven access pulls on, after a restart too,
// and nobody else gets anything.
func TestRegistryIsGone(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true})
	n := g.serve()
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	g.registry.Close()

	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "") // as if nothing were
	g.clock.forward(10 * time.Minute)
	g.stale(g.as(n, "acme"))
	g.nothing(http.StatusServiceUnavailable, g.as(n, "globex"), g.as(n, "initech"), g.nobody(n))
	n.stop()

	n = g.serve()
	g.stale(g.as(n, "acme"))
	g.nothing(http.StatusServiceUnavailable, g.as(n, "globex"), g.as(n, "initech"), g.nobody(n))
	g.clock.forward(24 * time.Hour) // grace is over
	g.nothing(http.StatusServiceUnavailable, g.as(n, "acme"))
}

// TestDeadRegistryIsLeftInPeace, by the real clock: while a registry breaks off every
// connection, ten clients that never give up get all that acme may have, refusals
// for all else, and it is asked once a second by all of them together.
func TestDeadRegistryIsLeftInPeace(t *testing.T) {
	t.Parallel()
	runs := 4 * time.Second
	if os.Getenv("BERTH_LONG") != "" {
		runs = time.Minute
	}
	g := newGone(t, ocitest.Options{Private: true})
	n := g.serve()
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	g.clock.forward(10 * time.Minute)
	g.registry.Inject(ocitest.Match{}, 0, ocitest.Drop())
	g.stale(g.as(n, "acme"))
	// By two organisations: what one alone is failed says nothing to the other.
	globex := g.as(n, "globex")
	globex.noAnswer(http.StatusServiceUnavailable, globex.get("/v2/ghcr.io/acme/app/manifests/1"))
	before, begin := g.registry.Count(ocitest.Match{}), time.Now()

	var pulls atomic.Int64
	var all sync.WaitGroup
	for range 5 {
		acme, globex := g.as(n, "acme"), g.as(n, "globex")
		all.Go(func() {
			for ; time.Since(begin) < runs; pulls.Add(1) {
				acme.mustPull("ghcr.io/acme/app", g.image, "")
			}
		})
		all.Go(func() {
			for time.Since(begin) < runs {
				globex.noAnswer(http.StatusServiceUnavailable, globex.get("/v2/ghcr.io/acme/app/manifests/1"))
			}
		})
	}
	all.Wait()
	asked, most := g.registry.Count(ocitest.Match{})-before, int(time.Since(begin)/time.Second)+2 // the first and the last second are not whole ones
	t.Logf("%d pulls; the registry was asked %d times in %v", pulls.Load(), asked, time.Since(begin))
	if asked > most || asked == 0 || pulls.Load() == 0 {
		t.Errorf("the registry was asked %d times, want 1 to %d, in %d pulls", asked, most, pulls.Load())
	}
}

// What is public when the registry is there, is not so for those who cannot
// know: they may have been refused meanwhile.
func TestPublicRegistryIsGone(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{})
	n := g.serve()
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	g.registry.Close()
	g.nothing(http.StatusServiceUnavailable, g.as(n, "globex"), g.as(n, "initech"), g.nobody(n))
}

// A registry may also be there, and answer nonsense. That is no answer about
// rights either way.
func TestRegistryIsInTrouble(t *testing.T) {
	t.Parallel()
	for what, fault := range map[string]ocitest.Fault{
		"503":      ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "60"),
		"429":      ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down", "Retry-After", "60"),
		"no reply": ocitest.Drop(),
		"login":    {Status: http.StatusOK, Body: []byte("<html>log in</html>"), Header: http.Header{"Content-Type": {"text/html"}}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			g := newGone(t, ocitest.Options{Private: true})
			n := g.serve()
			g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
			g.clock.forward(10 * time.Minute)
			g.registry.Inject(ocitest.Match{}, 0, fault)
			g.stale(g.as(n, "acme"))
			a := g.as(n, "globex").get("/v2/ghcr.io/acme/app/blobs/" + g.image.Platforms[0].Layers[0].String())
			if a.status != http.StatusServiceUnavailable && a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || len(a.body) > 2000 {
				t.Errorf("another organisation: %s", a)
			}
		})
	}
}

// What was denied stays denied, whatever happens to the registry or to berth
// afterwards.
func TestDenialOutlivesEverything(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true, LiveRights: true, Refusal: ocitest.RefuseForbidden})
	n := g.run()
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	n.stop() // else the proof is good for another five minutes
	n = g.run()
	g.registry.SetRights("acme-bot")
	g.as(n, "acme").mustRefuse("/v2/ghcr.io/acme/app/manifests/1", http.StatusForbidden, oci.CodeDenied)
	n.kill() // right after the answer

	g.registry.Close()
	n = g.run()
	g.refused(g.as(n, "acme"))
}

// refused wants no path to give anything, with whatever status.
func (g gone) refused(c *client) {
	g.t.Helper()
	var all sync.WaitGroup
	for _, path := range g.paths {
		all.Go(func() {
			if a := c.get("/v2/ghcr.io/acme/app/" + path); a.status < 400 || len(a.body) > 2000 {
				g.t.Errorf("%s", a)
			}
		})
	}
	all.Wait()
}

// A deleted tag or image is gone for those who ask, also while its bytes are
// here.
func TestDeletedUpstream(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true})
	n := g.serve()
	acme := g.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", g.image, "")
	g.registry.Delete("acme/app", "")
	g.clock.forward(10 * time.Minute)
	g.nothing(http.StatusNotFound, acme)
	g.registry.Close()
	g.refused(acme)
}
