//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// client is a real client, and what it calls an image by.
type client struct {
	name string
	puller
	ref func(*world, image) string
}

func realClients(t *testing.T, w *world) []client {
	t.Helper()
	return []client{
		{"crane", craneClient{craneProgram.find(t)}, (*world).ref},
		{"containerd 2", startContainerd(t, containerdTwo, w), ownName},
		{"dockerd of before", startDocker(t, dockerOld, w), (*world).ref},
		{"dockerd of today", startDocker(t, dockerNew, w), (*world).ref},
	}
}

// pullAs pulls an image and says whether it is the right one.
func (c client) pullAs(t *testing.T, w *world, i image) error {
	t.Helper()
	digests, err := c.pull(t, c.ref(w, i), w.as("acme"))
	if err == nil && !slices.Contains(digests, i.digest) {
		err = fmt.Errorf("got %v, not %s", digests, i.digest)
	}
	if err != nil {
		return fmt.Errorf("%s pulling %s: %w", c.name, i.repo, err)
	}
	return nil
}

// However often berth is started again under sockets that somebody else holds, no
// pull of a real client fails: each one is of another image, which nobody has yet.
func TestRestarts(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: there is no berth")
	}
	rounds := 20
	if os.Getenv("BERTH_LONG") != "" {
		rounds = 100
	}
	w := newWorld(t)
	w.berth.hold(t)
	clients := realClients(t, w)
	ended := make(chan error)
	quit := make(chan struct{})
	var all sync.WaitGroup
	for k, c := range clients {
		images := make([]image, 30)
		for n := range images {
			images[n] = pushImage(t, w.acme, fmt.Sprintf("team/restarts-%d-%d", k, n), 30_000, 300_000)
		}
		all.Go(func() {
			for n := 0; ; n++ {
				err := c.pullAs(t, w, images[n%len(images)])
				select {
				case ended <- err:
				case <-quit:
					return
				}
			}
		})
	}
	pulls := 0
	await := func() {
		pulls++
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for range rounds {
		for range clients {
			await()
		}
		w.berth.stop(t)
		w.berth.start(t)
	}
	await()
	close(quit)
	all.Wait()
	t.Logf("%d restarts during %d pulls", rounds, pulls)
}

// A stop waits ten seconds for running answers. Clients go on with what is cut off
// then, where they were.
func TestStopCutsOff(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: there is no berth")
	}
	w := newWorld(t)
	w.berth.hold(t)
	clients := realClients(t, w)
	clients = slices.DeleteFunc(clients, func(c client) bool { return c.name == "crane" }) // resumes nothing
	images := make([]image, len(clients))
	for k := range clients {
		images[k] = pushImage(t, w.acme, fmt.Sprintf("team/cut-%d", k), 12<<20)
	}
	release := w.acme.hold()
	defer release()
	var all sync.WaitGroup
	for k, c := range clients {
		all.Go(func() {
			if err := c.pullAs(t, w, images[k]); err != nil {
				t.Error(err)
			}
		})
	}
	w.acme.awaitHeld(t, len(clients))
	begin := time.Now()
	w.berth.stop(t)
	if took := time.Since(begin); took < 9*time.Second {
		t.Errorf("it stopped after %v: nothing was cut off", took)
	}
	w.berth.start(t)
	release()
	all.Wait()
}
