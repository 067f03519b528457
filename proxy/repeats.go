package proxy

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	repeatWindow = 30 * time.Second
	// maxRepeats bounds what is remembered. When more fails than that, repeats
	// are counted again.
	maxRepeats = 4096
)

// failureKey is one failure of one pull. Clients try a few times, by HEAD and GET,
// with and without a platform, so one `docker pull` fails several times.
type failureKey struct{ organisation, registry, repository, reference, reason string }

// clone is f on its own: its strings may be pieces of long requests.
func (f failureKey) clone() failureKey {
	return failureKey{
		strings.Clone(f.organisation), strings.Clone(f.registry), strings.Clone(f.repository),
		strings.Clone(f.reference), strings.Clone(f.reason),
	}
}

// repeats tells a failure from its repetition.
type repeats struct {
	now func() time.Time

	mu    sync.Mutex
	since *simplelru.LRU[failureKey, time.Time]
}

func newRepeats(now func() time.Time) *repeats {
	since, err := simplelru.NewLRU[failureKey, time.Time](maxRepeats, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &repeats{now: now, since: since}
}

// first says whether f was not counted in the last 30 seconds. What fails
// without end counts every 30 seconds.
func (r *repeats) first(f failureKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if counted, ok := r.since.Get(f); ok && now.Sub(counted) < repeatWindow {
		return false
	}
	r.since.Add(f.clone(), now)
	return true
}
