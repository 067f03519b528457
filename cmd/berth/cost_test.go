package main

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// cost is what a registry was asked for. Registries bill for manifest GETs.
type cost struct{ token, head, get, blobs int }

func costOf(r *ocitest.Registry) cost {
	return cost{r.TokenRequests(), r.ManifestHEADs(), r.ManifestGETs(), r.BlobGETs()}
}

// must wants the cost of what was done since the last must to be one of these.
func must(t testing.TB, r *ocitest.Registry, what string, these ...cost) {
	t.Helper()
	got := costOf(r)
	if !slices.Contains(these, got) {
		t.Errorf("%s costs %+v, not %+v:\n%v", what, got, these, r.Requests(ocitest.Match{}))
	}
	r.Forget()
}

// costly is a registry with an image of three layers for two platforms, and a
// node with its own clock.
type costly struct {
	*home
	registry *ocitest.Registry
	image    ocitest.Pushed
}

const layers = 3

func newCostly(t *testing.T, o ocitest.Options) costly {
	t.Helper()
	c := costly{home: newHome(t)}
	o.Now, o.TokenTTL, o.Auth = c.clock.now, 24*time.Hour, ocitest.Bearer
	c.registry = ocitest.New(t, o)
	c.image = c.registry.AddImage("acme/app", "1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{10_000, 300_000, 5 << 20}})
	for _, who := range []string{"acme", "globex"} {
		c.registry.AddUser(who+"-bot", who+"-secret", "acme/**")
		c.tenant(who)
		c.credential(who, "ci", "ghcr.io", who+"-bot", who+"-secret")
	}
	c.tenant("initech") // has no account
	c.home.registry("ghcr.io", c.registry)
	return c
}

// What a pull costs upstream, row by row.
func TestCostOfAPull(t *testing.T) {
	t.Parallel()
	for what, options := range map[string]ocitest.Options{
		"private":   {Private: true, Refusal: ocitest.RefuseAtToken},
		"public":    {},
		"redirects": {Private: true, CDN: ocitest.CDNSame},
		"http/2":    {Private: true, TLS: true, HTTP2: true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newCostly(t, options)
			if options.CDN != ocitest.NoCDN {
				w.registries = nil
				w.home.registry("ghcr.io", w.registry, "allow_private: [127.0.0.0/8]")
			}
			n := w.serve()
			acme := w.as(n, "acme")

			acme.mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "a cold pull", cost{token: 1, head: 1, get: 2, blobs: layers + 1})
			for range 5 {
				acme.mustPull("ghcr.io/acme/app", w.image, "")
			}
			if all := w.registry.Requests(ocitest.Match{}); len(all) > 0 {
				t.Errorf("five warm pulls cost %v", all)
			}
			w.clock.forward(61 * time.Second)
			acme.mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "a warm pull after tag_ttl", cost{head: 1})
			w.clock.forward(10 * time.Minute)
			acme.mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "a warm pull after access_ttl", cost{head: 1})
			w.as(n, "globex").mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "the first pull of a second organisation", cost{token: 1, head: 1})
			for range 2 {
				w.as(n, "globex").mustPull("ghcr.io/acme/app", w.image, "")
			}
			if all := w.registry.Requests(ocitest.Match{}); len(all) > 0 {
				t.Errorf("warm pulls of a second organisation cost %v", all)
			}
		})
	}
}

// Those without an account share one principal: what one of them paid for, the next
// has for nothing.
func TestCostWithoutAnAccount(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{})
	n := w.serve()
	w.nobody(n).mustPull("ghcr.io/acme/app", w.image, "")
	must(t, w.registry, "a cold pull by nobody", cost{token: 1, head: 1, get: 2, blobs: layers + 1})
	w.as(n, "initech").mustPull("ghcr.io/acme/app", w.image, "")
	must(t, w.registry, "a pull of an organisation without an account", cost{}, cost{head: 1})
	w.clock.forward(61 * time.Second)
	w.as(n, "initech").mustPull("ghcr.io/acme/app", w.image, "")
	must(t, w.registry, "another after tag_ttl", cost{head: 1})
}

// Many who pull the same at the same time cost what one costs.
func TestCostOfManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{Private: true, OneCopy: true})
	n := w.serve()
	var all sync.WaitGroup
	for range 20 {
		c := w.as(n, "acme")
		all.Go(func() {
			if p, err := c.pull("ghcr.io/acme/app", "1", ""); err != nil || p.digest != w.image.Digest {
				t.Errorf("%s: %v", p.digest, err)
			}
		})
	}
	all.Wait()
	must(t, w.registry, "20 cold pulls at once", cost{token: 1, head: 1, get: 2, blobs: layers + 1})
}

// A proof in use is renewed before it ends, so that no pull waits for it.
func TestAccessIsRenewedEarly(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{Private: true})
	w.cache["tag_ttl"] = "24h"
	acme := w.as(w.serve(), "acme")
	acme.mustPull("ghcr.io/acme/app", w.image, "")
	must(t, w.registry, "a cold pull", cost{token: 1, head: 1, get: 2, blobs: layers + 1})
	w.clock.forward(4*time.Minute + 10*time.Second)
	gate := w.registry.Hold(ocitest.Match{})
	acme.mustPull("ghcr.io/acme/app", w.image, "") // with upstream silent
	if err := gate.Wait(soon(t), 1); err != nil {
		t.Fatal("nothing was asked: ", err)
	}
	gate.Open()
	if err := w.registry.WaitInFlight(soon(t), ocitest.Match{}, 0); err != nil {
		t.Fatal(err)
	}
	w.clock.forward(2 * time.Minute) // past the end of the first proof
	w.registry.Hold(ocitest.Match{})
	acme.mustPull("ghcr.io/acme/app", w.image, "")
}

// A tag that moves is seen after tag_ttl, and not before: that is what the time
// is for.
func TestMovedTag(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{Private: true})
	n := w.serve()
	acme := w.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", w.image, "")
	moved := w.registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{777}, Seed: 9})
	w.clock.forward(50 * time.Second)
	acme.mustPull("ghcr.io/acme/app", w.image, "")
	w.as(n, "globex").mustPull("ghcr.io/acme/app", moved, "") // has never asked before
	w.clock.forward(11 * time.Second)
	acme.mustPull("ghcr.io/acme/app", moved, "")
	// By its digest the old one is there for ever.
	if a := acme.get("/v2/ghcr.io/acme/app/manifests/" + w.image.Digest.String()); a.status != http.StatusOK {
		t.Errorf("the old image: %s", a)
	}
}

// tag_ttl: 0s asks every time, by HEAD.
func TestTagIsAskedEachTime(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{Private: true})
	w.cache["tag_ttl"] = "0s"
	acme := w.as(w.serve(), "acme")
	acme.mustPull("ghcr.io/acme/app", w.image, "")
	w.registry.Forget()
	for i := range uint64(3) {
		image := w.registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{900}, Seed: 10 + i})
		acme.mustPull("ghcr.io/acme/app", image, "")
		must(t, w.registry, fmt.Sprint("pull ", i), cost{head: 1, get: 1, blobs: 2})
	}
	acme.head("/v2/ghcr.io/acme/app/manifests/1")
	must(t, w.registry, "a HEAD", cost{head: 1})
}

// Rate limits count manifest GETs: docker pulls by tag, again and again, and
// takes the limit only once for each manifest there is.
func TestPullLimitIsSpared(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{PullLimit: 8}) // a quarter of it is for callers without an organisation
	n := w.serve()
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := w.nobody(n).pull("ghcr.io/acme/app", "1", ""); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.clock.forward(time.Hour)
	w.nobody(n).mustPull("ghcr.io/acme/app", w.image, "")
	if limited := w.registry.Count(ocitest.Match{Status: http.StatusTooManyRequests}); limited != 0 || w.registry.ManifestGETs() != 2 {
		t.Errorf("the limit was hit %d times, by %d counted requests", limited, w.registry.ManifestGETs())
	}
}
