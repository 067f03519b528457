//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
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
// pull of a real client fails.
func TestRestarts(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: there is no berth")
	}
	w := newWorld(t)
	w.berth.hold(t)
	underLoad(t, w, func(int) {
		w.berth.stop(t)
		w.berth.start(t)
	})
}

// However often berth reads its configuration, every second time a broken one, no
// pull of a real client fails.
func TestReloads(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: there is no berth")
	}
	w := newWorld(t)
	path, err := berthBinary()
	must(t, err)
	good, err := os.ReadFile(w.berth.config())
	must(t, err)
	reload := func() error {
		_, err := run(t, w.berth.dir, nil, path, "reload", "--socket", filepath.Join(w.berth.dir, "admin.sock"))
		return err
	}
	underLoad(t, w, func(round int) {
		text := fmt.Sprintf("%s# round %d\n", good, round)
		broken := round%2 == 1
		if broken {
			text += "listeners: broken\n"
		}
		writeFile(t, w.berth.config(), text)
		if err := reload(); broken != (err != nil) {
			t.Errorf("round %d: %v", round, err)
		}
	})
}

// underLoad does something 20 times while real clients pull, each time images that
// nobody has yet, and wants every pull to be right.
func underLoad(t *testing.T, w *world, disturb func(round int)) {
	t.Helper()
	rounds := 20
	if os.Getenv("BERTH_LONG") != "" {
		rounds = 100
	}
	clients := realClients(t, w)
	ended := make(chan error)
	quit := make(chan struct{})
	var all sync.WaitGroup
	for k, c := range clients {
		images := make([]image, 30)
		for n := range images {
			images[n] = pushImage(t, w.acme, fmt.Sprintf("team/load-%d-%d", k, n), 30_000, 300_000)
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
	for round := range rounds {
		for range clients {
			await()
		}
		disturb(round)
	}
	await()
	close(quit)
	all.Wait()
	t.Logf("%d times during %d pulls", rounds, pulls)
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
