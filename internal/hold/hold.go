// Package hold remembers until when something is not to be tried again, and why.
package hold

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Table is a bounded table of holds: the least recently used one goes first. It is
// safe for concurrent use.
type Table[K comparable] struct {
	now     func() time.Time
	entries *lru.Cache[K, entry]
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
	entries, _ := lru.New[K, entry](max(size, 1)) // errors only for a size below 1
	return &Table[K]{now: now, entries: entries}
}

// For holds k for d from now on, in the place of what held it before. why may be nil.
func (t *Table[K]) For(k K, d time.Duration, why error) {
	t.entries.Add(k, entry{until: t.now().Add(d), why: why})
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
	for _, k := range t.entries.Keys() {
		if match(k) {
			t.entries.Remove(k)
		}
	}
}
