package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/admin"
	"berth/internal/ocitest"
	"berth/oci"
)

// A tag moves: clients get what it meant, whole, until the cooldown ends, with a restart
// in between; the new image by digest at once; and the status says until when.
func TestCooldown_TagMoves(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.main("policy: {cooldown: 48h}\n")
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")

	moved := s.registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{12_000}, Seed: 9})
	began := s.clock.now()
	s.clock.forward(time.Hour)
	means := func(n *running, who string, want oci.Digest) {
		t.Helper()
		c := s.caller(n, who)
		if a := c.head(manifest); a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != want.String() {
			t.Errorf("HEAD as %s: %s, %q, want %s", who, a, a.header.Get("Docker-Content-Digest"), want)
		}
		if a := c.get(manifest); a.status != http.StatusOK || oci.DigestOf(a.body) != want {
			t.Errorf("GET as %s: %s, want %s", who, a, want)
		}
	}
	means(n, "acme", s.image.Digest)
	means(n, "globex", moved.Digest) // has never seen what it meant
	s.caller(n, "acme").mustPull(app, s.image, "")
	if a := s.caller(n, "acme").get("/v2/" + app + "/manifests/" + moved.Digest.String()); a.status != http.StatusOK {
		t.Errorf("by digest: %s", a)
	}
	if a := s.caller(n, "acme").get("/v2/" + app + "/blobs/" + moved.Platforms[0].Layers[0].String()); a.status != http.StatusOK {
		t.Errorf("its layer: %s", a)
	}
	got := s.command("status", "--json")
	var st admin.Status
	if err := json.Unmarshal([]byte(got.out), &st); err != nil || len(st.Held) != 1 {
		t.Fatalf("%v, held: %+v", err, st.Held)
	}
	h := st.Held[0]
	if h.Organisation != "acme" || h.Image != "ghcr.io/acme/app:1" || h.Serves != s.image.Digest.String() || h.New != moved.Digest.String() || h.Until.Sub(began) < 48*time.Hour || h.Until.Sub(began) > 50*time.Hour {
		t.Errorf("%+v", h)
	}
	if got := s.command("status"); !strings.Contains(got.out, "ghcr.io/acme/app:1 serves "+shortDigest(h.Serves)+" for acme, not "+shortDigest(h.New)) {
		t.Errorf("%s", got.out)
	}

	n.stop()
	s.clock.forward(24 * time.Hour)
	n = s.serve()
	means(n, "acme", s.image.Digest)
	if got := s.command("prewarm", app+":1", "--org", "acme", "--json"); !strings.Contains(got.out, s.image.Digest.String()) {
		t.Errorf("prewarm: %+v", got)
	}
	// An exception is one line.
	s.main("policy: {cooldown: 48h, cooldown_except: [ghcr.io/acme/app:1]}\n")
	s.reload(exitOK)
	means(n, "acme", moved.Digest)
	s.main("policy: {cooldown: 48h}\n")
	s.reload(exitOK)
	means(n, "acme", s.image.Digest)

	s.clock.forward(25 * time.Hour)
	means(n, "acme", moved.Digest)
	if got := s.command("status", "--json"); strings.Contains(got.out, s.image.Digest.String()) {
		t.Errorf("it is still held: %s", got.out)
	}
}

// A tag that was pulled before there was a cooldown is held like any other.
func TestCooldown_TagOfBefore(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.main("policy: {cooldown: 48h}\n")
	s.reload(exitOK)
	s.registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{12_000}, Seed: 9})
	s.clock.forward(time.Hour)
	s.caller(n, "acme").mustPull(app, s.image, "")
}

// Where the registry has dropped what a tag meant, the refusal says what to do.
func TestCooldown_OldImageIsGone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.main("policy: {cooldown: 48h}\n")
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustPull(app, s.image, "")
	moved := s.registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{12_000}, Seed: 9})
	s.registry.Delete("acme/app", s.image.Digest.String())
	s.clock.forward(time.Hour)
	acme.mustPull(app, s.image, "") // it is kept, and was proven within a day
	s.clock.forward(25 * time.Hour)
	a := acme.get(manifest)
	if a.status != http.StatusForbidden || !strings.Contains(a.message(), "add ghcr.io/acme/app:1 to policy.cooldown_except") || !strings.Contains(a.message(), moved.Digest.String()) {
		t.Errorf("%s", a)
	}
	if a := acme.get("/v2/" + app + "/manifests/" + moved.Digest.String()); a.status != http.StatusOK {
		t.Errorf("the new one by digest: %s", a)
	}
}

// What a held tag serves stays on the disk, whatever else is pulled: the registry may not
// have it any more.
func TestCooldown_HeldImageStays(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	config := func(more string) {
		s.main(more)
		s.save(strings.Replace(s.read("berth.yaml"), "max_size: 1GiB", "max_size: 8MiB", 1))
	}
	config("policy: {cooldown: 48h}\n")
	was := s.registry.AddImage("acme/app", "2", ocitest.Image{Index: true, Layers: []int64{400_000, 500_000}, Seed: 20})
	n := s.serve()
	s.caller(n, "acme").mustPull(app, was, "")
	published(t, s.cacheDir())
	s.registry.AddImage("acme/app", "2", ocitest.Image{Index: true, Layers: []int64{2000}, Seed: 21})
	s.clock.forward(time.Hour)
	s.caller(n, "acme").mustPull(app, was, "") // and is held from now on

	fill := func() {
		for i := range 40 {
			d := s.registry.AddNoise("acme/own", uint64(900+i), 1<<20)
			if a := s.caller(n, "acme").get("/v2/ghcr.io/acme/own/blobs/" + d.String()); a.status != http.StatusOK {
				t.Fatalf("%s", a)
			}
		}
		published(t, s.cacheDir())
	}
	kept := func() (n int) {
		p := was.Platforms[0]
		for _, d := range append([]oci.Digest{was.Digest, p.Manifest, p.Config}, p.Layers...) {
			found, err := filepath.Glob(filepath.Join(s.cacheDir(), "blobs", "*", "sha256", "*", d.Encoded()))
			if err != nil {
				t.Fatal(err)
			}
			n += len(found)
		}
		return n
	}
	fill()
	if n := kept(); n != 5 {
		t.Errorf("%d of the 5 parts of what is held are kept", n)
	}
	config("")
	s.reload(exitOK)
	s.registry.SetTag("acme/app", "2", was.Digest)
	fill()
	if n := kept(); n == 5 {
		t.Error("nothing was evicted: this is no test of what is held")
	}
}

// Each node holds a tag by what it has seen itself: a second one that knows the old image
// goes on serving it, for its own time, also where nodes share; one that never saw it has
// nothing to hold. Nothing is lost by a restart of one of them.
func TestCooldown_SecondNode(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a fleet %t", shared), func(t *testing.T) {
			t.Parallel()
			hub := ocitest.New(t, ocitest.Options{})
			old := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{1 << 20}, Seed: 1})
			cooled := func(h *home) {
				h.cache["tag_ttl"] = "0s"
				h.more += "policy: {cooldown: 48h}\n"
			}
			var homes []*home
			if shared {
				homes = newCrew(t, 3, hub, cooled).homes
			}
			for len(homes) < 3 {
				h := newHome(t)
				h.registry("docker.io", hub)
				cooled(h)
				homes = append(homes, h)
			}
			var nodes []*running
			for _, h := range homes {
				nodes = append(nodes, h.serve())
			}
			gives := func(when string, i int, want ocitest.Pushed) {
				t.Helper()
				if a := homes[i].nobody(nodes[i]).head("/v2/app/manifests/1"); a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != want.Digest.String() {
					t.Errorf("%s, node %d: %s, %s", when, i, a, a.header.Get("Docker-Content-Digest"))
				}
				homes[i].nobody(nodes[i]).mustPull("app", want, "")
			}
			gives("at first", 0, old)
			gives("at first", 1, old)
			moved := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{1 << 20}, Seed: 2})
			homes[0].clock.forward(time.Hour)
			gives("moved", 0, old)
			gives("never seen before", 2, moved)
			gives("moved", 1, old)
			for i := range 2 {
				if a := homes[i].nobody(nodes[i]).get("/v2/app/manifests/" + moved.Digest.String()); a.status != http.StatusOK {
					t.Errorf("node %d, by digest: %s", i, a)
				}
			}
			nodes[0].stop()
			nodes[0] = homes[0].serve()
			gives("after a restart", 0, old)
			homes[1].clock.forward(49 * time.Hour)
			gives("its time is over", 1, moved)
			gives("its time is not over", 0, old)
			homes[0].clock.forward(48 * time.Hour)
			gives("its time is over", 0, moved)
		})
	}
}
