package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// often is how often something is done: fewer times where time is short.
func often(always, long int) int {
	if os.Getenv("BERTH_LONG") != "" {
		return long
	}
	return always
}

// newHarbour is a keeper with a socket for everyone, and a registry behind it.
func newHarbour(t *testing.T, o ocitest.Options) (k *keeper, door string, hub *ocitest.Registry) {
	t.Helper()
	k = newKeeper(t)
	door = k.hold("pulls")
	k.listeners = []string{fmt.Sprintf("{address: %q}", door)}
	hub = ocitest.New(t, o)
	k.registry("docker.io", hub)
	return k, "http://" + door, hub
}

// restart ends n as systemd does, and starts the next one when it is gone.
func (k *keeper) restart(n *running) (next *running) {
	k.t.Helper()
	if err := n.process.Signal(syscall.SIGTERM); err != nil {
		k.t.Fatal(err)
	}
	k.notices.await(k.t, "STOPPING=1")
	select {
	case <-n.ended:
	case <-soon(k.t).Done():
		k.t.Fatalf("berth does not stop:\n%s", n.log)
	}
	return k.start()
}

// However often it is started again, no pull fails while systemd holds the
// socket: whoever comes meanwhile is answered by the next one.
func TestRestartsFailNoPull(t *testing.T) {
	k, door, hub := newHarbour(t, ocitest.Options{})
	n := k.start()
	var clients []*client
	for range 4 {
		clients = append(clients, k.client(door))
	}
	c := gather(t, hub, "library/app", "app", clients...)
	rounds, longest := often(20, 100), time.Duration(0)
	for range rounds {
		c.await(3)
		begin := time.Now()
		n = k.restart(n)
		longest = max(longest, time.Since(begin))
	}
	c.await(3)
	c.end()
	t.Logf("%d restarts, each within %v, during %d pulls", rounds, longest, c.pulled.Load())
}

// Reloading fails no pull, whatever the new file holds.
func TestReloadsFailNoPull(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	clients := []*client{s.caller(n, "acme"), s.caller(n, "acme"), s.caller(n, "globex")}
	c := gather(t, s.registry, "acme/app", app, clients...)
	good := s.read("berth.yaml")
	broken := []func(){
		func() { s.put("berth.yaml", "") },
		func() { s.put("berth.yaml", "listeners: [") },
		func() { s.put("berth.yaml", strings.Replace(good, "endpoint:", "ca_file: /nowhere.pem, endpoint:", 1)) },
		func() { s.put("organisations.d/acme.yaml", "tokens: [{name: only}]") },
		func() { s.put("organisations.d/globex.yaml", "credentials: 7") },
	}
	const rounds = 100
	for i := range rounds {
		if i%2 == 0 {
			broken[i/2%len(broken)]()
			s.reload(exitFailed)
		} else {
			s.put("berth.yaml", fmt.Sprintf("%s# %d\n", good, i))
			s.dropIn("acme", fmt.Sprintf("limits: {requests: %d}", 100+i))
			s.dropIn("globex")
			s.reload(exitOK)
		}
		if i%5 == 0 {
			c.await(1)
		}
	}
	c.await(3)
	c.end()
	t.Logf("%d reloads, half of them of a broken file, during %d pulls", rounds, c.pulled.Load())
}

// A download that takes longer than a stop waits is cut off, and its client goes
// on where it was, at the next berth; and so does that one upstream.
func TestResumesWhatAStopCutOff(t *testing.T) {
	t.Parallel()
	k, door, hub := newHarbour(t, ocitest.Options{})
	const size, held = 12 << 20, 5 << 20
	d := hub.AddNoise("library/big", layerSeed, size)
	gate := ocitest.NewGate()
	// The registry stops in the middle, and gives no more to new connections either:
	// else the first berth would go on there.
	hub.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: d}, 1, ocitest.Fault{HoldBody: gate, HoldAt: held})
	hub.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: d}, 0, ocitest.Fault{HoldBody: gate})
	n := k.start()
	c := k.client(door)
	c.resumes = true
	got := make(chan answer)
	go func() { got <- c.get("/v2/library/big/blobs/" + d.String()) }()
	if err := hub.WaitSent(soon(t), ocitest.Match{Kind: ocitest.Blob, Digest: d}, held); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	k.restart(n)
	if took := time.Since(begin); took < drainFor || took > drainFor+5*time.Second {
		t.Errorf("it took %v to stop and start", took)
	}
	gate.Open()
	a := <-got
	if a.status != http.StatusOK || a.err != nil || len(a.body) != size || oci.DigestOf(a.body) != d {
		t.Errorf("%d, %d bytes, %v", a.status, len(a.body), a.err)
	}
	if sent := hub.BlobBytes(d); sent != size {
		t.Errorf("upstream sent %d bytes: what the first one had fetched was there for the second", sent)
	}
	if c.resumed.Load() != 1 {
		t.Errorf("it resumed %d times", c.resumed.Load())
	}
}
