package upstream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Connections bounds how many connections to all registries are open, which each keeps
// for a while to use them again: whoever has many registries would else use up the
// descriptors of this process. Above the bound those that are idle are closed, of the
// registries first that were asked longest ago. What is in use stays. A nil one bounds
// nothing.
type Connections struct {
	// Most is how many there are. It is not changed later.
	Most int64

	open atomic.Int64

	mu  sync.Mutex
	all map[*pools]struct{}
}

func (c *Connections) add(p *pools) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*pools]struct{}{}
	}
	c.all[p] = struct{}{}
}

func (c *Connections) remove(p *pools) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, p)
}

func (c *Connections) closed() {
	if c != nil {
		c.open.Add(-1)
	}
}

// opened counts another one, and makes room where there are too many.
func (c *Connections) opened() {
	if c == nil || c.open.Add(1) <= c.Most {
		return
	}
	type use struct {
		pools *pools
		at    int64
	}
	var by []use
	c.mu.Lock()
	for p := range c.all {
		by = append(by, use{p, p.used.Load()})
	}
	c.mu.Unlock()
	slices.SortFunc(by, func(a, b use) int { return cmp.Compare(a.at, b.at) })
	for _, u := range by {
		if c.open.Load() <= c.Most {
			return
		}
		u.pools.closeIdle()
	}
}
