// Package hold remembers until when something is not to be tried again, and why.
package hold

import (
	"time"

	"berth/internal/share"
)

// Table is a bounded table of holds. Where it is full, whoever has the most of them
// loses his oldest. It is safe for concurrent use.
type Table[K comparable] struct {
	now     func() time.Time
	entries *share.LRU[K, entry]
}

type entry struct {
	until time.Time
	why   error
}

// New makes a table of at most size holds. If now is nil, time.Now is the clock.
func New[K comparable](size int, now func() time.Time) *Table[K] {
	if now == nil {
		now = time.Now
	}
	return &Table[K]{now: now, entries: share.New[K, entry](int64(size), nil)}
}

// For holds k for d from now on, in the place of what held it before. It counts for
// owner, the organisation that it is due to. why may be nil.
func (t *Table[K]) For(owner string, k K, d time.Duration, why error) {
	t.entries.Add(owner, k, entry{until: t.now().Add(d), why: why})
}

// Held reports whether k is held, for how long still, and why.
func (t *Table[K]) Held(k K) (left time.Duration, why error, held bool) { //nolint:revive // the error is a value here, not how the look went
	e, ok := t.entries.Get(k)
	if !ok {
		return 0, nil, false
	}
	if left = e.until.Sub(t.now()); left <= 0 {
		return 0, nil, false
	}
	return left, e.why, true
}

// Release ends the hold of k.
func (t *Table[K]) Release(k K) { t.entries.Remove(k) }

// ReleaseIf ends the holds that match.
func (t *Table[K]) ReleaseIf(match func(K) bool) {
	t.entries.RemoveIf(func(k K, _ entry) bool { return match(k) })
}
