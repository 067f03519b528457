package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// published lists the blobs that are on the disk.
func (h *home) published() map[string]bool {
	h.t.Helper()
	all := map[string]bool{}
	for _, f := range h.files() {
		if strings.HasPrefix(f, filepath.Join(h.cacheDir(), "blobs")) {
			all[f] = true
		}
	}
	return all
}

// Killed again and again while ten clients pull: what was published stays, all of
// it is what its name says, the next start is ready at once, and who pulls then
// gets the image.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	rounds := 15
	if os.Getenv("BERTH_LONG") != "" {
		rounds = 1000
	}
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	h.registry("docker.io", hub)
	h.listeners = h.listeners[openDoor:]
	h.cache["max_size"] = "1TiB" // what is evicted would look like lost
	random := rand.New(rand.NewPCG(1, 2))
	hashed, slow, longest := map[string]bool{}, 0, time.Duration(0)
	var last ocitest.Pushed
	program(t, berthProgram) // building it is no part of starting it
	for round := range rounds {
		begin := time.Now()
		n := h.build()
		if a := h.client(n.doors[0]).get("/v2/"); a.status != http.StatusOK {
			t.Fatal(a)
		}
		took := time.Since(begin)
		longest = max(longest, took)
		if took >= time.Second && took > 20*anyStart(t) {
			slow++
		}
		if round > 0 {
			h.client(n.doors[0]).mustPull("app", last, "")
		}
		before := h.published()
		image := hub.AddImage("library/app", fmt.Sprint(round), ocitest.Image{Layers: []int64{100 << 10, 4<<20 + 64<<10}, Seed: uint64(round)})
		hub.Forget()
		var pulls sync.WaitGroup
		// It is killed meanwhile, so these fail, or end in all the right bytes.
		pulls.Go(func() { _, _ = h.client(n.doors[0]).pull("app", image.Tag, "") })
		for i := range 9 {
			pulls.Go(func() {
				d := image.Platforms[0].Layers[i%2]
				p := h.client(n.doors[0]).part("/v2/app/blobs/" + d.String())
				if p.err == nil && p.status == http.StatusOK && fmt.Sprintf("%x", p.hash) != d.Encoded() {
					t.Errorf("round %d: %d wrong bytes for %s", round, p.size, d)
				}
			})
		}
		// At any moment of it: also when all has come and is being published.
		if err := hub.WaitSent(soon(t), ocitest.Match{Kind: ocitest.Blob}, random.Int64N(4<<20+150<<10)); err != nil {
			t.Fatal(err)
		}
		seen := h.published()
		n.kill()
		pulls.Wait()
		after := h.published()
		for path := range seen {
			before[path] = true
		}
		for path := range before {
			if !after[path] {
				t.Errorf("round %d: %s was published, and is lost", round, path)
			}
		}
		for path := range after {
			if hashed[path] {
				continue
			}
			hashed[path] = true
			data, err := os.ReadFile(path)
			if err != nil || oci.DigestOf(data).Encoded() != filepath.Base(path) {
				t.Errorf("round %d: %s has %d bytes of something else: %v", round, path, len(data), err)
			}
		}
		last = image
	}
	n := h.build()
	h.client(n.doors[0]).mustPull("app", last, "")
	n.stop()
	if slow > rounds/10 {
		t.Errorf("%d of %d starts took longer than a second, and than twenty starts that do nothing", slow, rounds)
	}
	t.Logf("%d kills, %d blobs; the slowest start took %v", rounds, len(hashed), longest)
}

// anyStart is how long this machine takes now to start the program for nothing.
func anyStart(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	if out, err := exec.Command(program(t, berthProgram), "version").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return time.Since(begin)
}
