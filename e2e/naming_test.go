//go:build e2e

package e2e

import (
	"testing"
)

// What only berth does, asked with one client each.

// An image's name may begin with the organisation, which keeps the images of
// two organisations apart inside one dockerd; it proves nothing.
func TestOrganisationInName(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	d := startDocker(t, dockerOld, w)
	i := pushImage(t, w.acme, "team/named", 16<<10)
	under := func(organisation string) string {
		return w.berth.tokens + "/" + organisation + "/" + i.at.name + "/" + i.repo + ":" + i.tag
	}
	mustPull(t, d, under("acme"), w.as("acme"), i.digest)
	mustRefuse(t, d, under("acme"), w.as("globex"), refused)
	mustRefuse(t, d, under("globex"), w.as("acme"), refused)
	mustRefuse(t, d, under("globex"), w.as("globex"), refused, "globex", w.acme.name)
}

// On a listener that belongs to one organisation, nobody has to log in; on the
// one that belongs to nobody, only what is public can be had.
func TestOpenListeners(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	c := craneClient{craneProgram.find(t)}
	private := pushImage(t, w.acme, "team/private", 16<<10)
	public := pushImage(t, w.hub, "library/public", 16<<10)
	name := "/" + private.at.name + "/" + private.repo + ":" + private.tag
	mustPull(t, c, w.berth.acme+name, login{}, private.digest)
	mustRefuse(t, c, w.berth.open+name, login{}, refused, w.acme.name)
	for _, short := range []string{"/docker.io/library/public:1", "/docker.io/public:1", "/library/public:1", "/public:1"} {
		mustPull(t, c, w.berth.open+short, login{}, public.digest)
	}
}

// A pull that fails is several requests, and counts once.
func TestAFailedPullCountsOnce(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	d := startDocker(t, dockerOld, w)
	i := pushImage(t, w.acme, "team/counted", 16<<10)
	mustRefuse(t, d, w.ref(i), w.as("globex"), refused)
	labels := []string{`organisation="globex"`, `registry="` + w.acme.name + `"`}
	if n := w.berth.metric(t, "berth_pull_failures_total", labels...); n != 1 {
		t.Errorf("one failed pull counts %v\n%s", n, w.berth.get(t, "/metrics"))
	}
	if n := w.berth.metric(t, "berth_pull_failures_total", append(labels, `reason="no_credential"`)...); n != 1 {
		t.Errorf("as no_credential it counts %v", n)
	}
}

// What was cached and proven is there after a restart, though the registry is
// not; for whoever has no proof, nothing can be decided.
func TestRestartWhileTheRegistryIsDown(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	d := startDocker(t, dockerNew, w)
	i := pushPlatforms(t, w.acme, "team/restarted", false)
	warm(t, w.ref(i), w.as("acme"))
	w.berth.stop(t)
	w.acme.cut()
	w.berth.start(t)
	mustPull(t, d, w.ref(i), w.as("acme"), i.digest)
	mustRefuse(t, d, w.ref(i), w.as("globex"), unavailable)
}

// A crash costs the fill that was under way nothing but time, and no client
// gets anything but what the digest says.
func TestKilledWhilePulling(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	c := startContainerd(t, containerdTwo, w)
	i := pushImage(t, w.acme, "team/killed", 30<<20, 20<<20)

	pulled := make(chan error, 1)
	go func() {
		_, err := c.pull(t, ownName(w, i), w.as("acme"))
		pulled <- err
	}()
	w.acme.await(t, "/blobs/")
	w.berth.kill()
	w.berth.start(t)
	t.Logf("the pull that was cut off: %v", <-pulled) // containerd may have come through
	mustPull(t, c, ownName(w, i), w.as("acme"), i.digest)
}
