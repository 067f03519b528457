package main

import (
	"fmt"
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
	c := &crew{t: t, s3: engines.StartS3(t)}
	var users []string
	for i := range n {
		users = append(users, strings.Replace(coordinator.ACL(nodeName(i)), "PASSWORD", nodePassword, 1))
	}
	c.redis = engines.StartRedis(t, users...)
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

// Many nodes at once: one copy, one counted pull.
func TestFleet_OneCopyForManyNodes(t *testing.T) {
	t.Parallel()
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{100 << 10, 5<<20 + 3, 20 << 20}, Seed: 1})
	c := newCrew(t, 6, hub, nil)
	var pulls sync.WaitGroup
	for _, h := range c.homes {
		n := h.build()
		pulls.Go(func() { h.client(n.doors[openDoor]).mustPull("app", image, "") })
	}
	pulls.Wait()
	if n := hub.Count(ocitest.Match{Kind: ocitest.Manifest, Method: "GET"}); n != 1 {
		t.Errorf("%d counted GETs", n)
	}
	for _, d := range image.Blobs(0) {
		if sent, size := hub.BlobBytes(d), int64(len(hub.Bytes("library/app", d))); sent != size {
			t.Errorf("%d bytes of %s came from the registry, of %d", sent, d, size)
		}
	}
}
