package proxy

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"berth/oci"
)

// Totals are what was done for all clients since the start, for the status. The
// series of organisations that are gone are dropped; what was done for them stays
// in here.
type Totals struct {
	// Images that were sent to clients, and Failures of pulls.
	Images, Failures uint64
	// Requests for manifests and blobs that were answered, and Hits, those that cost
	// no download.
	Requests, Hits uint64
	// CacheBytes were sent from the cache.
	CacheBytes uint64
	// LastPulls say when each family of clients last got content.
	LastPulls map[string]time.Time
}

type totals struct {
	images, failures, requests, hits, cacheBytes atomic.Uint64

	mu        sync.Mutex
	lastPulls map[string]time.Time
}

// Totals are those of now.
func (m *Metrics) Totals() Totals {
	t := &m.totals
	t.mu.Lock()
	defer t.mu.Unlock()
	return Totals{
		Images: t.images.Load(), Failures: t.failures.Load(), Requests: t.requests.Load(), Hits: t.hits.Load(),
		CacheBytes: t.cacheBytes.Load(), LastPulls: maps.Clone(t.lastPulls),
	}
}

func (t *totals) answer(kind string, result oci.Result) {
	if kind == "list" {
		return
	}
	switch result {
	case oci.Hit, oci.Join, oci.Revalidated, oci.Stale:
		t.hits.Add(1)
		t.requests.Add(1)
	case oci.Fill, oci.Pass:
		t.requests.Add(1)
	}
}

func (t *totals) pulledBy(client string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lastPulls == nil {
		t.lastPulls = map[string]time.Time{}
	}
	t.lastPulls[client] = at
}
