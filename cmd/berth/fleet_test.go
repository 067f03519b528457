package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/fleet/coordinator"
	"berth/internal/ocitest"
	"berth/internal/ocitest/engines"
)

// crew is nodes that share: each a berth with a home of its own, and both engines.
type crew struct {
	t     *testing.T
	s3    *engines.S3
	redis *engines.Redis
	homes []*home
}

const (
	fleetKey     = "8f2d0c7be1a94f6d53c8e07b1d9a2f4c6e8b0d3f5a7c9e1b2d4f6a8c0e2b4d60"
	nodePassword = "canary-of-a-node-in-the-fleet"
)

// newCrew is n homes that know r as docker.io. more is what each has besides.
func newCrew(t *testing.T, n int, r *ocitest.Registry, more func(*home)) *crew {
	t.Helper()
	c := &crew{t: t, s3: engines.StartS3(t), redis: engines.StartRedis(t, nodeUsers(n)...)}
	for i := range n {
		h := newHome(t)
		h.registry("docker.io", r)
		h.fleet(c, nodeName(i))
		if more != nil {
			more(h)
		}
		c.homes = append(c.homes, h)
	}
	return c
}

// nodeUsers are the lines of an ACL file for the first n nodes.
func nodeUsers(n int) (users []string) {
	for i := range n {
		users = append(users, strings.Replace(coordinator.ACL(nodeName(i)), "PASSWORD", nodePassword, 1))
	}
	return users
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// fleet makes h the home of the node of that name.
func (h *home) fleet(c *crew, name string) {
	h.t.Helper()
	key, access, password := filepath.Join(h.dir, "fleet-key"), filepath.Join(h.dir, "bucket-key"), filepath.Join(h.dir, "coordinator-password")
	h.write(key, fleetKey+"\n")
	h.write(access, c.s3.AccessKey+":"+c.s3.Secret+"\n")
	h.write(password, nodePassword+"\n")
	h.more += fmt.Sprintf(`
fleet:
  zone: here
  key_file: %q
  bucket: {endpoint: %q, name: %q, access_key_file: %q}
  coordinator: {address: %q, username: %s, password_file: %q, tls: false}
`, key, c.s3.Endpoint, c.s3.Bucket, access, c.redis.Addr, name, password)
}

// complete waits until n blobs lie in the fleet as a whole, and whoever fetched them has
// nothing left to do for it.
func (c *crew) complete(n int) {
	c.t.Helper()
	for ctx := soon(c.t); ; {
		leases, done := 0, 0
		for key := range strings.FieldsSeq(c.redis.Do("keys", "*")) {
			switch {
			case strings.HasPrefix(key, "berth:lease:here:"):
				leases++
			case strings.Contains(key, ":here:") && strings.HasPrefix(key, "berth:node:"):
				if state := c.redis.Do("getrange", key, "1", "1"); state == string(rune(coordinator.Done)) {
					done++
				}
			}
		}
		if done >= n && leases == 0 {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			c.t.Fatalf("%d of %d blobs are complete, and %d are being fetched", done, n, leases)
		}
	}
}

// What one node has pulled, the next has from the fleet: the registry is asked what the
// tag means, and for nothing else.
func TestFleet_TheSecondNodeTakesNothingFromTheRegistry(t *testing.T) {
	t.Parallel()
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{100 << 10, 5<<20 + 3, 20 << 20}, Seed: 1})
	c := newCrew(t, 2, hub, nil)
	first := c.homes[0].build()
	c.homes[0].client(first.doors[openDoor]).mustPull("app", image, "")
	c.complete(4)
	hub.Forget()
	second := c.homes[1].build()
	c.homes[1].client(second.doors[openDoor]).mustPull("app", image, "")
	if n := hub.Count(ocitest.Match{Kind: ocitest.Blob}); n != 0 {
		t.Errorf("%d requests for blobs", n)
	}
	if n := hub.Count(ocitest.Match{Kind: ocitest.Manifest, Method: "GET"}); n != 0 {
		t.Errorf("%d counted GETs", n)
	}
}

// Many nodes at once: one copy, one counted pull, which is the index and a platform's
// manifest.
func TestFleet_OneCopyForManyNodes(t *testing.T) {
	t.Parallel()
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Index: true, Layers: []int64{100 << 10, 5<<20 + 3, 20 << 20}, Seed: 1})
	// On a busy machine a node is without a sign of life for longer than anybody waits.
	c := newCrew(t, 6, hub, func(h *home) { h.more += "  patience: 20s\n" })
	var pulls sync.WaitGroup
	for _, h := range c.homes {
		n := h.build()
		pulls.Go(func() { h.client(n.doors[openDoor]).mustPull("app", image, "") })
	}
	pulls.Wait()
	if n := hub.Count(ocitest.Match{Kind: ocitest.Manifest, Method: "GET"}); n != 2 {
		t.Errorf("%d counted GETs", n)
	}
	for _, d := range image.Blobs(0) {
		if sent, size := hub.BlobBytes(d), int64(len(hub.Bytes("library/app", d))); sent != size {
			t.Errorf("%d bytes of %s came from the registry, of %d", sent, d, size)
		}
	}
}

// The node that fetches for all is killed at any byte: no pull fails, no more than 32 MiB
// come twice, and after 4.5 s at the latest another one is at the registry.
func TestFleet_HolderIsKilled(t *testing.T) {
	t.Parallel()
	kills := 2
	if os.Getenv("BERTH_LONG") != "" {
		kills = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range kills {
		at := random.Int64N(killedSize)
		k := killHolder(t, at)
		t.Logf("killed after %d bytes: %d came twice; nobody was at the registry for %v; it took %v; the bucket too slow: %t", at, k.twice, k.idle, k.took, k.slow)
		// A holder that has waited for the bucket for its patience waits no more, and says so.
		if k.twice > 32<<20 && !k.slow {
			t.Errorf("killed after %d bytes: %d came twice from the registry", at, k.twice)
		}
		if k.idle > 4500*time.Millisecond {
			t.Errorf("killed after %d bytes: nobody was at the registry for %v", at, k.idle)
		}
	}
}

// The layer of which the holder dies, and how many bytes of it come in a second over one
// connection.
const killedSize, killedRate = 48 << 20, 8 << 20

// killed is what the death of a holder has cost.
type killed struct {
	twice int64         // bytes
	idle  time.Duration // until another node asked the registry
	took  time.Duration // the others' pulls
	slow  bool          // the holder had found the bucket too slow
}

// killHolder pulls a layer on four nodes, of which it kills the one that fetches it when
// so many bytes have come.
func killHolder(t *testing.T, at int64) (k killed) {
	t.Helper()
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{killedSize}, Seed: uint64(at)})
	layer := image.Platforms[0].Layers[0]
	match := ocitest.Match{Kind: ocitest.Blob, Digest: layer}
	hub.Inject(match, 0, ocitest.Slow(killedRate))
	c := newCrew(t, 4, hub, nil)
	var nodes []*running
	for _, h := range c.homes {
		nodes = append(nodes, h.build())
	}
	var pulls sync.WaitGroup
	first := c.homes[0].client(nodes[0].doors[openDoor])
	pulls.Go(func() { _, _ = first.pull("app", image.Tag, "") }) // it is killed meanwhile
	if err := hub.WaitSent(soon(t), match, 1); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for i, h := range c.homes[1:] {
		pulls.Go(func() { h.client(nodes[i+1].doors[openDoor]).mustPull("app", image, "") })
	}
	if err := hub.WaitSent(soon(t), match, at); err != nil {
		t.Fatal(err)
	}
	nodes[0].kill()
	died := time.Now()
	pulls.Wait()
	k.took = time.Since(begin)
	for _, n := range nodes[1:] {
		n.stop()
	}
	k.twice = max(hub.BlobBytes(layer)-killedSize, 0)
	for _, r := range hub.Requests(match) {
		if after := r.Start.Sub(died); after > 0 && (k.idle == 0 || after < k.idle) {
			k.idle = after
		}
	}
	k.slow = strings.Contains(nodes[0].log.String(), "takes bytes more slowly")
	return k
}

// Engines that die, hang or forget in the middle fail no pull.
func TestFleet_EnginesGo(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(c *crew){
		"bucket dies":         func(c *crew) { c.s3.Stop() },
		"bucket hangs":        func(c *crew) { c.s3.Freeze() },
		"coordinator dies":    func(c *crew) { c.redis.Stop() },
		"coordinator hangs":   func(c *crew) { c.redis.Freeze() },
		"coordinator forgets": func(c *crew) { c.redis.Do("flushall") },
		"both die":            func(c *crew) { c.redis.Stop(); c.s3.Stop() },
	} {
		t.Run(what, func(t *testing.T) {
			if short := strings.HasSuffix(what, "hangs"); !short && os.Getenv("BERTH_LONG") == "" {
				t.Skip("in the long run")
			}
			hub := ocitest.New(t, ocitest.Options{})
			image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{16 << 20}, Seed: 1})
			layer := image.Platforms[0].Layers[0]
			hub.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: layer}, 0, ocitest.Slow(16<<20))
			c := newCrew(t, 3, hub, nil)
			var pulls sync.WaitGroup
			for _, h := range c.homes {
				n := h.build()
				pulls.Go(func() { h.client(n.doors[openDoor]).mustPull("app", image, "") })
			}
			if err := hub.WaitSent(soon(t), ocitest.Match{Kind: ocitest.Blob, Digest: layer}, 5<<20); err != nil {
				t.Fatal(err)
			}
			end(c)
			pulls.Wait()
			// Who comes now has nothing from there, and waits for nothing either.
			late := c.homes[0]
			late.cacheAt = filepath.Join(late.dir, "late")
			late.client(late.build().doors[openDoor]).mustPull("app", image, "")
		})
	}
}

// Of what is private nothing can be read in the bucket or the coordinator, each node asks
// the registry whether its organisation may have it, and a revoked one has nothing from
// the fleet on a node that never asked.
func TestFleet_PrivateImages(t *testing.T) {
	t.Parallel()
	registry := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
	registry.AddUser("acme-bot", "acme-secret", "acme/**")
	secret := bytes.Repeat([]byte(canary("acme")+" "), 300_000)
	image := registry.AddImage("acme/app", "1", ocitest.Image{LayerBytes: [][]byte{secret}})
	hub := ocitest.New(t, ocitest.Options{})
	c := newCrew(t, 3, hub, func(h *home) {
		h.registry("ghcr.io", registry)
		h.tenant("acme")
		h.credential("acme", "ci", "ghcr.io", "acme-bot", "acme-secret")
		key := filepath.Join(h.dir, "acme-fleet")
		h.write(key, strings.Repeat("a1", 31)+"b2\n")
		h.organisations["acme"].more = fmt.Sprintf("fleet_key_file: %q", key)
	})
	var nodes []*running
	for _, h := range c.homes {
		nodes = append(nodes, h.build())
	}
	c.homes[0].as(nodes[0], "acme").mustPull("ghcr.io/acme/app", image, "")
	c.complete(2)
	registry.Forget()
	c.homes[1].as(nodes[1], "acme").mustPull("ghcr.io/acme/app", image, "")
	if n := registry.BlobBytes(image.Platforms[0].Layers[0]); n > 1 {
		t.Errorf("the second node has taken %d bytes of the layer from the registry", n)
	}
	for key, sealed := range c.s3.Objects() {
		if bytes.Contains(sealed, []byte(canary("acme"))) || strings.Contains(key, "acme") {
			t.Errorf("%s shows what it is", key)
		}
	}
	for key := range strings.FieldsSeq(c.redis.Do("keys", "*")) {
		if value := c.redis.Do("get", key); strings.Contains(key+value, "acme") {
			t.Errorf("%s shows what it is", key)
		}
	}
	// The right is withdrawn: the third node, which has never asked, gives nothing.
	registry.SetRights("acme-bot")
	if _, err := c.homes[2].as(nodes[2], "acme").pull("ghcr.io/acme/app", image.Tag, ""); err == nil {
		t.Error("a revoked organisation has pulled")
	}
	for _, d := range append(image.Blobs(0), image.Digest) {
		for _, kind := range []string{"blobs", "manifests"} {
			a := c.homes[2].as(nodes[2], "acme").get("/v2/ghcr.io/acme/app/" + kind + "/" + d.String())
			if a.status == http.StatusOK || bytes.Contains(a.body, []byte(canary("acme"))) {
				t.Errorf("%s %s: %s", kind, d, a)
			}
		}
	}
}

// No node learns from the fleet what a tag means.
func TestFleet_MovedTag(t *testing.T) {
	t.Parallel()
	hub := ocitest.New(t, ocitest.Options{})
	old := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{1 << 20}, Seed: 1})
	c := newCrew(t, 2, hub, func(h *home) { h.cache["tag_ttl"] = "0s" })
	first, second := c.homes[0].build(), c.homes[1].build()
	c.homes[0].client(first.doors[openDoor]).mustPull("app", old, "")
	moved := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{1 << 20}, Seed: 2})
	c.homes[1].client(second.doors[openDoor]).mustPull("app", moved, "")
	c.homes[0].client(first.doors[openDoor]).mustPull("app", moved, "")
}
