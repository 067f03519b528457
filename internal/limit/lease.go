package limit

import "sync"

// Lease is a Slot that whoever took it may share: it is given back when the last one has
// let go. The zero Lease is nothing.
type Lease struct {
	mu      sync.Mutex
	slot    Slot
	holders int
	least   int64 // what it shrinks to when one holder is left; 0: it does not
}

// Take adds s to what it is, and holds it once.
func (l *Lease) Take(s Slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holders == 0 {
		l.slot, l.least = s, 0
	} else {
		s.n += l.slot.n // of the same pool and organisation
		l.slot = s
	}
	l.holders++
}

// Keep holds it once more, until release. ok is false where it was given back already.
func (l *Lease) Keep() (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holders == 0 {
		return nil, false
	}
	l.holders++
	return sync.OnceFunc(l.Release), true
}

// Shrink gives back what is more than n, when nobody else holds it.
func (l *Lease) Shrink(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.least = max(n, 1); l.holders == 1 {
		l.slot.Shrink(l.least)
	}
}

// Release lets go once.
func (l *Lease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.holders {
	case 0:
		return
	case 1:
		l.slot.Release()
	case 2:
		if l.least > 0 {
			l.slot.Shrink(l.least)
		}
	}
	l.holders--
}
