package proxy

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// labels are a series' label values, the organisation first.
type labels [4]string

// counters is a CounterVec that finds its series without allocating and keeps
// within the room for series of organisations.
type counters struct {
	vec    *prometheus.CounterVec
	width  int
	budget *seriesBudget

	mu    sync.RWMutex
	known map[labels]prometheus.Counter
}

// seriesBudget is how many more series with an organisation there may be.
type seriesBudget struct {
	mu       sync.Mutex
	left     int
	overflow prometheus.Counter
}

func newCounters(f promauto.Factory, budget *seriesBudget, name, help string, names ...string) *counters {
	return &counters{
		vec:    f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names),
		width:  len(names),
		budget: budget,
		known:  map[labels]prometheus.Counter{},
	}
}

// get is the counter of l, or that of organisation "other".
func (c *counters) get(l labels) prometheus.Counter {
	c.mu.RLock()
	counter, ok := c.known[l]
	c.mu.RUnlock()
	if ok {
		return counter
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if counter, ok := c.known[l]; ok {
		return counter
	}
	shown := l
	if l[0] != nobody && !c.budget.take() {
		shown[0] = "other"
	}
	counter = c.vec.WithLabelValues(shown[:c.width]...)
	c.known[l] = counter
	return counter
}

// keep drops the series of organisations that are not there. Those that were
// folded into "other" are forgotten, and may find room now.
func (c *counters) keep(there func(organisation string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.known {
		if l[0] == nobody || there(l[0]) {
			continue
		}
		if c.vec.DeleteLabelValues(l[:c.width]...) {
			c.budget.give()
		}
		delete(c.known, l)
	}
}

func (b *seriesBudget) give() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left++
}

func (b *seriesBudget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		b.overflow.Inc()
		return false
	}
	b.left--
	return true
}
