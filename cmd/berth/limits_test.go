package main

import (
	"net/http"
	"sync"
	"testing"

	"berth/internal/ocitest"
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
