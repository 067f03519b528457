package proxy

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// labels are a series' label values, the organisation first.
type labels [4]string

// series is a vector of metrics that finds each without allocating and keeps within
// the room for series of organisations.
type series[M any] struct {
	with   func(values ...string) M
	remove func(values ...string) bool
	width  int
	weight int // how many series one of them is
	// registry: the second label is a registry's.
	registry bool
	budget   *seriesBudget

	mu    sync.RWMutex
	known map[labels]M
}

type counters = series[prometheus.Counter]

// seriesBudget is how many more series with an organisation there may be.
type seriesBudget struct {
	mu sync.Mutex
	// left is for all, and the last reserve of it for counters only: a histogram is many
	// series, and alerts need the counters.
	left, reserve int
	// most is what an organisation may have that takes of the reserve. If 0, any number.
	most     int
	has      map[string]int // by organisation
	overflow prometheus.Counter
}

func newCounters(f promauto.Factory, budget *seriesBudget, name, help string, names ...string) *counters {
	vec := f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names)
	return &counters{
		with: vec.WithLabelValues, remove: vec.DeleteLabelValues,
		width: len(names), weight: 1, registry: names[1] == "registry", budget: budget, known: map[labels]prometheus.Counter{},
	}
}

// get is the metric of l, or that of the organisation's other registries where it has more
// than its share, or that of organisation "other".
func (c *series[M]) get(l labels) M {
	c.mu.RLock()
	m, ok := c.known[l]
	c.mu.RUnlock()
	if ok {
		return m
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m, ok := c.known[l]; ok {
		return m
	}
	shown := l
	if l[0] != nobody {
		switch c.budget.take(l[0], c.weight) {
		case noShare:
			shown = c.folded(l)
		case noRoom:
			shown[0] = "other"
		}
	}
	m = c.with(shown[:c.width]...)
	c.known[l] = m
	return m
}

// folded is l with all the organisation's registries in one.
func (c *series[M]) folded(l labels) labels {
	if c.registry {
		l[1] = "other"
	}
	return l
}

// keep drops the series that there says nothing is left of. Those that were folded are
// forgotten, and may find room now.
func (c *series[M]) keep(there func(labels) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.known {
		if there(l) {
			continue
		}
		if c.remove(l[:c.width]...) && l[0] != nobody {
			c.budget.give(l[0], c.weight)
		}
		if all := c.folded(l); !there(all) {
			c.remove(all[:c.width]...)
		}
		delete(c.known, l)
	}
}

func (b *seriesBudget) give(organisation string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	if b.has[organisation] -= n; b.has[organisation] == 0 {
		delete(b.has, organisation)
	}
}

// room says whether there is some for a series.
type room uint8

const (
	hasRoom room = iota
	noShare      // the organisation has its share
	noRoom
)

func (b *seriesBudget) take(organisation string, n int) room {
	b.mu.Lock()
	defer b.mu.Unlock()
	scarce := b.left-n < b.reserve
	switch {
	case scarce && b.most > 0 && b.has[organisation]+n > b.most:
		b.overflow.Inc()
		return noShare
	case b.left < n, scarce && n > 1:
		b.overflow.Inc()
		return noRoom
	}
	if b.has == nil {
		b.has = map[string]int{}
	}
	b.left -= n
	b.has[organisation] += n
	return hasRoom
}
