//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// oneTimeout is how long berth waits for an answer on a new connection. A pull that
// takes that much longer than one without berth has waited out a dead connection.
const oneTimeout = 8 * time.Second

// brittle is a world in which the connections between berth and acme's registry can
// become silent.
type brittle struct {
	*world

	line   *ocitest.Forwarder
	filled int
}

func newBrittle(t *testing.T) *brittle {
	t.Helper()
	onlyBehindBerth(t)
	b := &brittle{world: newWorld(t)}
	b.line = ocitest.NewForwarder(t, b.acme.addr)
	b.acme.via = b.line.Addr()
	b.berth.stop(t)
	b.berth.writeConfig(t, b.world)
	b.berth.start(t)
	return b
}

// pooled is how many connections one caller can have to a registry at once: of the
// sixteen that a registry gets, a quarter is for others.
const pooled = 12

// fill leaves a full pool of idle connections. Where this machine is so slow that berth
// gives connections up meanwhile, that is done again.
func (b *brittle) fill(t *testing.T) {
	t.Helper()
	for range 10 {
		b.fillOnce(t)
		if open, frozen := b.line.Open(); open-frozen >= pooled {
			return
		}
	}
	t.Fatalf("the pool never has %d connections", pooled)
}

// fillOnce holds as many layers at once in the middle.
func (b *brittle) fillOnce(t *testing.T) {
	t.Helper()
	images := make([]image, pooled)
	for k := range images {
		b.filled++
		images[k] = pushImage(t, b.acme, fmt.Sprint("team/filling-", b.filled), holdAfter+64<<10)
	}
	b.acme.forgetHeld()
	release := b.acme.hold()
	defer release()
	var all sync.WaitGroup
	for _, i := range images {
		all.Go(func() {
			if err := fetch(t.Context(), b.ref(i), b.as("acme")); err != nil {
				t.Errorf("filling the pool: %v", err)
			}
		})
	}
	b.acme.awaitHeld(t, pooled)
	release()
	all.Wait()
}

// soon wants f to take less than a timeout more than a pull without berth, and the
// breaker to stay closed.
func (b *brittle) soon(t *testing.T, direct time.Duration, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	took := time.Since(begin)
	t.Logf("it took %v, and %v without berth", took.Round(time.Millisecond), direct.Round(time.Millisecond))
	if took >= direct+oneTimeout {
		t.Error("it has waited for a dead connection")
	}
	if b.berth.wrote(t, "is in trouble") {
		t.Error("the breaker opened")
	}
}

// deadClient is a real client with two ways to call an image.
type deadClient struct {
	name    string
	start   func(*testing.T, *brittle) puller
	through func(*brittle, image) string // berth; nil: world.ref
	anybody bool                         // it logs in nowhere
}

func deadClients() []deadClient {
	containerd := func(v containerdVersion) func(*testing.T, *brittle) puller {
		return func(t *testing.T, b *brittle) puller { return startContainerd(t, v, b.world) }
	}
	docker := func(v dockerVersion) func(*testing.T, *brittle) puller {
		return func(t *testing.T, b *brittle) puller { return startDocker(t, v, b.world) }
	}
	return []deadClient{
		{name: "crane", start: func(t *testing.T, _ *brittle) puller { return craneClient{craneProgram.find(t)} }},
		{name: "skopeo", start: func(t *testing.T, _ *brittle) puller { return skopeoClient{skopeo.find(t)} }},
		{name: "podman", start: func(t *testing.T, _ *brittle) puller { return startPodman(t) }},
		{name: "containerd 1", start: containerd(containerdOne)},
		{name: "containerd 2", start: containerd(containerdTwo)},
		{name: "dockerd of before", start: docker(dockerOld)},
		{name: "dockerd of today", start: docker(dockerNew)},
		{
			name: "BuildKit", anybody: true,
			start: func(t *testing.T, b *brittle) puller {
				return startBuildkit(t, fmt.Sprintf("[registry.%q]\nhttp = true\n", b.berth.acme))
			},
			through: func(b *brittle, i image) string {
				return fmt.Sprintf("%s/%s/%s:%s", b.berth.acme, i.at.name, i.repo, i.tag)
			},
		},
	}
}

// pull pulls an image that nobody has yet through berth.
func (c deadClient) pull(t *testing.T, b *brittle, p puller, i image) {
	t.Helper()
	ref, as := b.ref(i), b.as("acme")
	if c.through != nil {
		ref = c.through(b, i)
	}
	if c.anybody {
		as = login{}
	}
	mustPull(t, p, ref, as, i.digest)
}

// withoutBerth is how long a pull of such an image takes at the registry itself.
func (c deadClient) withoutBerth(t *testing.T, b *brittle, p puller, i image) time.Duration {
	t.Helper()
	if c.anybody {
		return 0 // the registry is private
	}
	begin := time.Now()
	mustPull(t, p, fmt.Sprintf("%s/%s:%s", b.acme.addr, i.repo, i.tag), acmeUpstream, i.digest)
	return time.Since(begin)
}

// crossing is a pull during which connections become silent.
type crossing struct {
	release func()  // lets the answer pass that the registry holds
	bytes   float64 // that have come to berth before
	least   int     // connections that become silent
}

// pullAcross pulls while the registry holds an answer. All open connections become
// silent before that answer is released.
func (c deadClient) pullAcross(t *testing.T, b *brittle, p puller, i image, direct time.Duration, when crossing) {
	t.Helper()
	defer when.release()
	b.acme.forgetHeld()
	before := b.berth.metric(t, "berth_upstream_fetched_bytes_total")
	var pull sync.WaitGroup
	pull.Go(func() { c.pull(t, b, p, i) })
	b.acme.awaitHeld(t, 1)
	b.awaitFetched(t, before+when.bytes)
	b.soon(t, direct, func() {
		b.freeze(t, when.least)
		when.release()
		pull.Wait()
	})
}

// awaitFetched waits until so many bytes have come to berth in all.
func (b *brittle) awaitFetched(t *testing.T, bytes float64) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); b.berth.metric(t, "berth_upstream_fetched_bytes_total") < bytes; {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%v bytes never came", bytes)
		}
	}
}

// Sixteen pooled connections become silent. The next cold pull of each client works,
// and pays for that once; so do one whose manifest is on its way and one whose layer is
// in the middle.
func TestDeadConnections(t *testing.T) {
	for _, c := range deadClients() {
		t.Run(c.name, func(t *testing.T) {
			b := newBrittle(t)
			p := c.start(t, b)
			repo := "team/" + strings.NewReplacer(" ", "-", "K", "k", "B", "b").Replace(c.name)
			direct := c.withoutBerth(t, b, p, pushImage(t, b.acme, repo+"-direct", 64<<10, 6<<20))

			next := pushImage(t, b.acme, repo+"-next", 64<<10, 6<<20)
			b.fill(t)
			b.freeze(t, pooled)
			b.soon(t, direct, func() { c.pull(t, b, p, next) })

			// A registry may count a GET of a manifest, so that berth must be surer
			// before it sends one again.
			counted := pushImage(t, b.acme, repo+"-counted", 64<<10, 6<<20)
			b.fill(t)
			c.pullAcross(t, b, p, counted, direct, crossing{b.acme.holdManifests(), 0, pooled})

			middle := pushImage(t, b.acme, repo+"-middle", 64<<10, 12<<20)
			c.pullAcross(t, b, p, middle, direct, crossing{b.acme.hold(), 1 << 20, 1})
		})
	}
}

func (b *brittle) freeze(t *testing.T, least int) {
	t.Helper()
	if n := b.line.Freeze(); n < least {
		t.Fatalf("only %d connections were open", n)
	}
}
