package proxy

import (
	"strings"
	"sync"
	"time"

	"berth/internal/share"
)

const (
	repeatWindow = 30 * time.Second
	// maxRepeats bounds what is remembered. When more fails than that, repeats
	// are counted again, those of whoever fails most.
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

	mu    sync.Mutex // held from looking to noting
	since *share.LRU[failureKey, time.Time]
}

func newRepeats(now func() time.Time) *repeats {
	return &repeats{now: now, since: share.New[failureKey, time.Time](maxRepeats, nil)}
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
	f = f.clone()
	r.since.Add(f.organisation, f, now)
	return true
}
