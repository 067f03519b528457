//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cooled is a world whose berth has this cooldown from its next start or reload on.
func (w *world) cooled(t *testing.T, cooldown string) {
	t.Helper()
	w.berth.writeConfig(t, w)
	written, err := os.ReadFile(w.berth.config())
	must(t, err)
	text := strings.Replace(string(written), "cache: {", "cache: {tag_ttl: 0s, ", 1)
	writeFile(t, w.berth.config(), text+"policy: {cooldown: "+cooldown+"}\n")
}

// anotherNode has the same registries, a berth of its own with a cooldown, and the clients
// too: those that go to the node that an image's name says, and containerds of its own.
func anotherNode(t *testing.T, w *world, clients []client) (*world, []client) {
	t.Helper()
	other := *w
	other.berth = startBerth(t, &other)
	other.cooled(t, "48h")
	other.berth.stop(t)
	other.berth.start(t)
	byName := slices.DeleteFunc(slices.Clone(clients), func(c client) bool { return c.ref(&other, image{at: w.acme}) == c.ref(w, image{at: w.acme}) })
	if len(byName) < 4 { // crane, both dockerds, podman
		t.Fatalf("%d clients can pull from another node", len(byName))
	}
	return &other, append(byName,
		client{"containerd 1", startContainerd(t, containerdOne, &other), ownName},
		client{"containerd 2", startContainerd(t, containerdTwo, &other), ownName})
}

// A tag moves: every real client gets the image of before until the cooldown ends, also
// after a restart of berth and at a second node, and the new one by its digest at once. A
// node that never saw the old one has nothing to hold. The cooldown ends by a shorter one in
// the configuration, so that nobody has to wait for it.
func TestCooldownHoldsATag(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	w.cooled(t, "48h")
	w.berth.stop(t)
	w.berth.start(t)
	clients := append(realClients(t, w), client{"podman", startPodman(t), (*world).ref}, client{"containerd 1", startContainerd(t, containerdOne, w), ownName})
	before := pushImage(t, w.acme, "team/moves", 30_000)
	for _, c := range clients {
		if err := c.pullAs(t, w, before); err != nil {
			t.Fatal(err)
		}
	}
	second, byName := anotherNode(t, w, clients)
	for _, c := range byName {
		if err := c.pullAs(t, second, before); err != nil {
			t.Fatal(err)
		}
	}
	after := pushImage(t, w.acme, "team/moves", 40_000)
	if after.digest == before.digest {
		t.Fatal("the tag has not moved: this is no test")
	}
	held := func(when string, w *world, clients []client) {
		t.Helper()
		for _, c := range clients {
			digests, err := c.pull(t, c.ref(w, before), w.as("acme"))
			if err != nil || !slices.Contains(digests, before.digest) || slices.Contains(digests, after.digest) {
				t.Errorf("%s, %s: got %v (%v), want %s", c.name, when, digests, err, before.digest)
			}
		}
	}
	held("when it has moved", w, clients)
	held("when it has moved, at a second node", second, byName)
	w.berth.stop(t)
	w.berth.start(t)
	held("after a restart", w, clients)
	held("after a restart of the other", second, byName)
	for _, c := range clients {
		name := strings.TrimSuffix(c.ref(w, after), ":"+after.tag) + "@" + after.digest
		if digests, err := c.pull(t, name, w.as("acme")); err != nil || !slices.Contains(digests, after.digest) {
			t.Errorf("%s, the new one by digest: got %v (%v)", c.name, digests, err)
		}
	}
	held("when the new one is here", w, clients)
	third, byName := anotherNode(t, w, clients)
	for _, c := range byName {
		if err := c.pullAs(t, third, after); err != nil {
			t.Errorf("at a node that never saw the old one: %v", err)
		}
	}

	path, err := berthBinary()
	must(t, err)
	socket := filepath.Join(w.berth.dir, "admin.sock")
	status, err := run(t, w.berth.dir, nil, path, "status", "--socket", socket)
	must(t, err)
	if !strings.Contains(status, w.acme.name+"/team/moves:1 serves "+before.digest[:len("sha256:")+12]+" for acme") {
		t.Errorf("the status does not say what is held:\n%s", status)
	}
	w.cooled(t, "1ms")
	_, err = run(t, w.berth.dir, nil, path, "reload", "--socket", socket)
	must(t, err)
	for _, c := range clients {
		if err := c.pullAs(t, w, after); err != nil {
			t.Errorf("after the cooldown: %v", err)
		}
	}
}
