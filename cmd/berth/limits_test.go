package main

import (
	"net/http"
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
