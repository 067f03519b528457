package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"berth/internal/ocitest"
)

// crowd pulls without a pause until it is stopped: images that are kept, and
// every other time one that nobody has pulled before.
type crowd struct {
	t        testing.TB
	registry *ocitest.Registry
	repo     string // at the registry
	name     string // and behind /v2/
	kept     ocitest.Pushed

	fresh  atomic.Uint64
	pulled atomic.Int64
	stop   context.CancelFunc
	all    sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed at the next pull's end
}

// gather starts one puller for each client, each with connections of its own.
func gather(t testing.TB, registry *ocitest.Registry, repo, name string, clients ...*client) *crowd {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &crowd{
		t: t, registry: registry, repo: repo, name: name, stop: cancel, changed: make(chan struct{}),
		kept: registry.AddImage(repo, "kept", ocitest.Image{Layers: []int64{40_000, 2 << 20}}),
	}
	for _, one := range clients {
		transport := &http.Transport{DisableCompression: true}
		one.http.Transport, one.resumes = transport, true
		c.all.Go(func() {
			defer transport.CloseIdleConnections()
			c.pullOn(ctx, one)
		})
	}
	t.Cleanup(c.end)
	return c
}

func (c *crowd) pullOn(ctx context.Context, one *client) {
	for turn := 0; ctx.Err() == nil; turn++ {
		image := c.kept
		if turn%2 == 1 {
			n := c.fresh.Add(1)
			image = c.registry.AddImage(c.repo, fmt.Sprint("fresh-", n), ocitest.Image{Layers: []int64{20_000, 300_000}, Seed: n})
		}
		got, err := one.pull(c.name, image.Tag, "")
		if err != nil || got.digest != image.Digest {
			c.t.Errorf("pull %d, of %s: %v", c.pulled.Load(), image.Tag, err)
		}
		c.pulled.Add(1)
		c.mu.Lock()
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
	}
}

// await waits until so many more pulls have ended.
func (c *crowd) await(more int64) {
	c.t.Helper()
	ctx := soon(c.t)
	for want := c.pulled.Load() + more; ; {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if c.pulled.Load() >= want {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatal("nothing is pulled any more")
		}
	}
}

func (c *crowd) end() {
	c.stop()
	c.all.Wait()
}
