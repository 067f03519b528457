package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// An organisation at its limit of downloads waits for itself; nobody else waits
// for it, and who joins one of its downloads does not either.
func TestDownloadsOfOneOrganisation(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.dropIn("acme", "limits: {fills: 1}")
	image := s.registry.AddImage("acme/app", "wide", ocitest.Image{Layers: []int64{3000, 4000, 5000, 6000, 7000}, Seed: 9})
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	acme.get("/v2/" + app + "/manifests/wide") // it has shown its right to what that lists, as whoever pulls has
	ofAcme := ocitest.Match{Kind: ocitest.Blob, User: "acme-bot"}
	gate := s.registry.Hold(ofAcme)

	layers := image.Platforms[0].Layers
	blob := func(i int) string { return "/v2/" + app + "/blobs/" + layers[i].String() }
	var wg sync.WaitGroup
	pull := func(c *client, i int) {
		if a := c.get(blob(i)); a.status != http.StatusOK || int64(len(a.body)) != image.Platforms[0].Sizes[i] {
			t.Errorf("%s as %s", a, c.user)
		}
	}
	for i := range layers {
		wg.Go(func() { pull(acme, i) })
	}
	if err := gate.Wait(soon(t), 1); err != nil {
		t.Fatal(err)
	}
	globex.mustPull(app, s.image, "") // others than acme's

	for range layers {
		gate.Pass(1)
	}
	wg.Wait()
	if most := s.registry.MaxInFlight(ofAcme); most != 1 {
		t.Errorf("%d downloads of acme's went on at once", most)
	}
	if got := s.registry.Count(ofAcme); got != len(layers) {
		t.Errorf("%d downloads, want %d", got, len(layers))
	}
	s.metric(n, `berth_pull_failures_total{organisation="acme",reason="policy",registry="ghcr.io"}`, 0)
}

// Organisations without an account share what a registry allows this node, and
// none of them more than its share: it takes nothing from the others.
func TestShareOfTheNodesPulls(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	hub := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, PullLimit: 20, Now: s.clock.now})
	var images []ocitest.Pushed
	for i := range 8 {
		images = append(images, hub.AddImage("library/app", string(rune('a'+i)), ocitest.Image{Layers: []int64{2000}, Seed: uint64(i)}))
	}
	s.save(strings.Replace(s.read("berth.yaml"), "registries:\n", "registries:\n  docker.io: {endpoint: \""+hub.URL()+"\"}\n", 1))
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	path := func(i int) string { return "/v2/library/app/manifests/" + images[i].Digest.String() }

	for i := range 5 { // a quarter of 20; the first one tells the limit
		if a := acme.get(path(i)); a.status != http.StatusOK {
			t.Fatalf("%s", a)
		}
	}
	counted := hub.ManifestGETs()
	a := acme.get(path(6)) // a HEAD costs nothing, and passes
	if a.status != http.StatusTooManyRequests || a.code() != string(oci.CodeTooManyRequests) {
		t.Errorf("beyond its share: %s", a)
	}
	for _, words := range []string{"organisation acme: it has had its share of what docker.io allows", "connect an account for docker.io"} {
		if !strings.Contains(a.message(), words) {
			t.Errorf("%q does not say %q", a.message(), words)
		}
	}
	if a.header.Get("Retry-After") == "" || hub.ManifestGETs() != counted {
		t.Errorf("%s, %v: it is to come back, and the hub is not to be asked", a, a.header)
	}
	if a := acme.get(path(0)); a.status != http.StatusOK {
		t.Errorf("what is here: %s", a)
	}
	if a := globex.get(path(6)); a.status != http.StatusOK {
		t.Errorf("another organisation: %s", a)
	}
	if a := acme.get(path(6)); a.status != http.StatusOK {
		t.Errorf("what another got: %s", a)
	}
	s.clock.forward(6*time.Hour + time.Minute)
	if a := acme.get(path(7)); a.status != http.StatusOK {
		t.Errorf("after the window: %s", a)
	}
}

// Callers at an open listener that are in no organisation are one more beside those: they
// have a share too. Where there are no organisations, all of it is theirs.
func TestShareOfTheNodesPulls_WithoutAnOrganisation(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"beside organisations": 5, "alone": 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			hub := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, PullLimit: 20, Now: s.clock.now})
			s.hub(hub)
			if name == "alone" {
				s.remove("organisations.d/acme.yaml")
				s.remove("organisations.d/globex.yaml")
			}
			var images []ocitest.Pushed
			for i := range 22 {
				images = append(images, hub.AddImage("library/app", fmt.Sprint(i), ocitest.Image{Layers: []int64{900}, Seed: uint64(i)}))
			}
			path := func(i int) string { return "/v2/library/app/manifests/" + images[i].Digest.String() }
			n := s.serve()
			nobody, served := s.client(n.doors[openDoor]), 0
			for i := range 21 {
				a := nobody.get(path(i))
				if a.status == http.StatusOK {
					served++
				} else if a.status != http.StatusTooManyRequests {
					t.Errorf("%s", a)
				}
			}
			if served != want {
				t.Errorf("%d of the node's 20 pulls went to callers in no organisation, want %d", served, want)
			}
			if name == "alone" {
				return
			}
			if a := s.caller(n, "globex").get(path(21)); a.status != http.StatusOK {
				t.Errorf("an organisation's first pull: %s", a)
			}
		})
	}
}

// Clients of one organisation that read slowly have none of the connections to a
// registry, and what hangs there has never all of them: another organisation's pull goes
// on beside both.
func TestLimiter_SlowAndHungDownloadsHoldNobodyElse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.SetRights("globex-bot", "globex/**")
	s.save(strings.Replace(s.read("berth.yaml"), "max_size: 1GiB", "max_size: 16MiB", 1))
	big := s.registry.AddNoise("globex/own", 500, 24<<20) // past the disk, at its client's pace
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	open := func(d oci.Digest) {
		wg.Go(func() {
			resp, err := globex.send(ctx, http.MethodGet, "/v2/ghcr.io/globex/own/blobs/"+d.String())
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if _, err := io.ReadFull(resp.Body, make([]byte, 1<<10)); err == nil {
				<-ctx.Done()
			}
		})
	}
	for range 20 {
		open(big)
	}
	whole := ocitest.Match{Kind: ocitest.Blob, User: "globex-bot"}
	await(t, "all slow clients to be answered, which are more than there are connections", func() bool { return s.registry.MaxInFlight(whole) >= 20 })

	gate := s.registry.Hold(whole)
	for i := range 16 { // as many as limits.fills lets through
		open(s.registry.AddNoise("globex/own", uint64(600+i), 1<<20))
	}
	if err := gate.Wait(soon(t), 10); err != nil {
		t.Fatal(err)
	}
	acme.mustPull(app, s.image, "")
	cancel()
	gate.Open()
	wg.Wait()
}

// floods sends n HEADs at once, until ctx ends; wait is for the last of them.
func (c *client) floods(ctx context.Context, n int, path func(i int) string) (wait func()) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if resp, err := c.send(ctx, http.MethodHead, path(i)); err == nil {
				resp.Body.Close()
			}
		})
	}
	return wg.Wait
}

// HEADs that get no answer hold nobody else's.
func TestLimiter_HungHEADsHoldNobodyElse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.SetRights("globex-bot", "globex/**")
	s.registry.AddImage("globex/own", "1", ocitest.Image{Layers: []int64{100}})
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	acme.mustPull(app, s.image, "")
	gate := s.registry.Hold(ocitest.Match{Kind: ocitest.Manifest, Repo: "globex/own"})
	ctx, cancel := context.WithCancel(t.Context())
	wait := globex.floods(ctx, 100, func(i int) string { return fmt.Sprintf("/v2/ghcr.io/globex/own/manifests/t%d", i) })
	if err := gate.Wait(soon(t), 32); err != nil {
		t.Fatal(err)
	}
	s.clock.forward(10 * time.Minute) // past tag_ttl and access_ttl
	if a := acme.head(manifest); a.status != http.StatusOK || a.header.Get("Warning") != "" {
		t.Errorf("%s, %q", a, a.header.Get("Warning"))
	}
	cold := s.registry.AddImage("acme/app", "2", ocitest.Image{Layers: []int64{10_001}, Seed: 77})
	acme.mustPull(app, cold, "")
	cancel()
	gate.Open()
	wait()
}

// A flood of one organisation's HEADs for names that it invents reaches the registry at
// that organisation's rate, and takes nothing from the next one.
func TestLimiter_AFloodOfHEADs(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.SetRights("globex-bot", "globex/**")
	s.dropIn("globex", "limits: {rate: 5, burst: 20}")
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	ctx, cancel := context.WithCancel(t.Context())
	begun := time.Now()
	wait := globex.floods(ctx, 200, func(i int) string { return fmt.Sprintf("/v2/ghcr.io/globex/own%d/manifests/x", i) })
	ofGlobex := ocitest.Match{Kind: ocitest.Manifest, Where: func(r ocitest.Request) bool { return strings.HasPrefix(r.Repo, "globex/") }}
	await(t, "the flood", func() bool { return s.registry.Count(ofGlobex) >= 20 })
	acme.mustPull(app, s.image, "")
	cancel()
	wait()
	if got, most := s.registry.Count(ofGlobex), 20+int(5*(time.Since(begun).Seconds()+1)); got > most {
		t.Errorf("%d of 200 reached the registry, want %d at most", got, most)
	}
}

// Who has no account is asked for as everybody else without one, and pays by his own
// limits all the same: a flood takes nothing from the others, also of what they ask for in
// the same words.
func TestLimiter_WithoutAnAccount(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	public := ocitest.New(t, ocitest.Options{Now: s.clock.now})
	image := public.AddImage("library/app", "1", ocitest.Image{Layers: []int64{10_000}})
	s.save(strings.Replace(s.read("berth.yaml"), "registries:", fmt.Sprintf("registries:\n  quay.io: {endpoint: %q}", public.URL()), 1))
	s.dropIn("globex", "limits: {rate: 1, burst: 5}")
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	ctx, cancel := context.WithCancel(t.Context())
	begun := time.Now()
	wait := globex.floods(t.Context(), 200, func(i int) string {
		if i < 100 { // these first
			return fmt.Sprint("/v2/quay.io/library/app/manifests/none", i)
		}
		<-ctx.Done()
		return "/v2/quay.io/library/app/manifests/1"
	})
	ofGlobex := ocitest.Match{Kind: ocitest.Manifest, Where: func(r ocitest.Request) bool { return strings.HasPrefix(r.Tag, "none") }}
	await(t, "the flood", func() bool { return public.Count(ofGlobex) >= 5 })
	cancel() // it asks for what acme asks for, too
	acme.mustPull("quay.io/library/app", image, "")
	wait()
	if got, most := public.Count(ofGlobex), 5+int(time.Since(begun).Seconds()+2); got > most {
		t.Errorf("%d of 100 reached the registry, want %d at most", got, most)
	}
}

// The downloads of one organisation share its bandwidth, and another's are as fast as
// ever. The long run is for a machine that does nothing else: there it gets all of it.
func TestBandwidth_OfOneOrganisationOverSockets(t *testing.T) {
	t.Parallel()
	alone := os.Getenv("BERTH_LONG") != ""
	limit, size := 4<<20, 8<<20
	if alone {
		limit, size = 10<<20, 100<<20
	}
	s := newStage(t)
	s.registry.SetRights("globex-bot", "globex/**")
	s.dropIn("globex", fmt.Sprintf("limits: {bandwidth: %dMiB}", limit>>20))
	var all []oci.Digest
	for i := range 2 {
		all = append(all, s.registry.AddNoise("globex/own", uint64(700+i), int64(size/2)))
	}
	other := s.registry.AddNoise("acme/app", 800, int64(size))
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	fetch := func(c *client, repo string, digests ...oci.Digest) float64 {
		begun := time.Now()
		var wg sync.WaitGroup
		for _, d := range digests {
			wg.Go(func() {
				if a := c.get("/v2/ghcr.io/" + repo + "/blobs/" + d.String()); a.status != http.StatusOK || oci.DigestOf(a.body) != d {
					t.Errorf("%s", a)
				}
			})
		}
		wg.Wait()
		return float64(size) / time.Since(begun).Seconds()
	}
	var limited, free float64
	var wg sync.WaitGroup
	wg.Go(func() { limited = fetch(globex, "globex/own", all...) })
	wg.Go(func() { free = fetch(acme, "acme/app", other) })
	wg.Wait()
	most := float64(limit)
	t.Logf("%.2f of the limit, the other %.1f times that", limited/most, free/most)
	if limited > 1.1*most || alone && limited < 0.9*most || free < 2*limited {
		t.Errorf("%.2f MiB/s where %d are allowed, and %.2f where there is no limit", limited/(1<<20), limit>>20, free/(1<<20))
	}
}
