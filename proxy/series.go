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
	budget *seriesBudget

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
	overflow      prometheus.Counter
}

func newCounters(f promauto.Factory, budget *seriesBudget, name, help string, names ...string) *counters {
	vec := f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names)
	return &counters{
		with: vec.WithLabelValues, remove: vec.DeleteLabelValues,
		width: len(names), weight: 1, budget: budget, known: map[labels]prometheus.Counter{},
	}
}

// get is the metric of l, or that of organisation "other".
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
	if l[0] != nobody && !c.budget.take(c.weight) {
		shown[0] = "other"
	}
	m = c.with(shown[:c.width]...)
	c.known[l] = m
	return m
}

// keep drops the series of organisations that are not there. Those that were
// folded into "other" are forgotten, and may find room now.
func (c *series[M]) keep(there func(organisation string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.known {
		if l[0] == nobody || there(l[0]) {
			continue
		}
		if c.remove(l[:c.width]...) {
			c.budget.give(c.weight)
		}
		delete(c.known, l)
	}
}

func (b *seriesBudget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

func (b *seriesBudget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n || n > 1 && b.left-n < b.reserve {
		b.overflow.Inc()
		return false
	}
	b.left -= n
	return true
}
