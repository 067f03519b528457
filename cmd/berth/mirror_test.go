package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// Docker Hub's pull limit is used up, and there is a mirror: a cold pull works,
// and the mirror is asked for nothing but bytes by their digest.
func TestMirrorUnderAPullLimit(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub, mirror, dead := ocitest.New(t, ocitest.Options{}), ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer}), ocitest.New(t, ocitest.Options{})
	image := ocitest.Image{Index: true, Layers: []int64{5000, 300_000}}
	img := hub.AddImage("library/app", "1", image)
	mirror.AddImage("library/app", "1", image)
	dead.Close()
	hub.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 0,
		ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit.", "Retry-After", "1800"))
	h.registry("docker.io", hub, "mirrors: [{url: "+dead.URL()+"}, {url: "+mirror.URL()+"}]")
	n := h.serve()
	h.nobody(n).mustPull("docker.io/library/app", img, "")
	if gets := hub.ManifestGETs(); gets != 1 {
		t.Errorf("%d GETs against the limit", gets)
	}
	if hub.BlobGETs() == 0 || mirror.BlobGETs() != 0 {
		t.Errorf("%d and %d GETs of blobs, which have no limit", hub.BlobGETs(), mirror.BlobGETs())
	}
	if mirror.ManifestGETs() != 2 {
		t.Errorf("%d GETs at the mirror", mirror.ManifestGETs())
	}
	for _, r := range mirror.Requests(ocitest.Match{}) {
		if r.Tag != "" || r.User != "" {
			t.Errorf("the mirror was asked for %s", r)
		}
	}
	if until := n.sample(`berth_cooldown_until_timestamp_seconds{account="-",organisation="-",registry="docker.io"}`); until < float64(time.Now().Add(29*time.Minute).Unix()) {
		t.Errorf("cooling down until %v", until)
	}
	for _, registry := range []string{"docker.io", strings.TrimPrefix(mirror.URL(), "http://")} {
		if open := n.sample(`berth_breaker_open{registry="` + registry + `"}`); open != 0 {
			t.Errorf("the breaker of %s is %v", registry, open)
		}
	}
	// What the mirror has and the registry does not, is not there.
	mirror.AddImage("library/other", "1", image)
	h.nobody(n).mustRefuse("/v2/docker.io/library/other/manifests/1", http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// What was deleted upstream is kept where the operator wants that.
func TestKeptUpstream(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true})
	g.registries[0] = strings.Replace(g.registries[0], "{", "{on_not_found: keep, ", 1)
	n := g.serve()
	acme := g.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", g.image, "")
	g.registry.Delete("acme/app", "")
	// What the registry still shows of the repository tells that the right is there.
	other := g.registry.AddImage("acme/app", "other", ocitest.Image{Layers: []int64{1000}, Seed: 7})
	acme.mustPull("ghcr.io/acme/app", other, "")
	for range 2 {
		g.clock.forward(48 * time.Hour) // and so beyond grace
		g.stale(acme)
	}
	if n := n.sample(`berth_requests_total{kind="manifest",organisation="acme",registry="ghcr.io",result="stale"}`); n < 2 {
		t.Errorf("%v stale answers are counted", n)
	}
	g.nothing(http.StatusNotFound, g.as(n, "globex"))
}
