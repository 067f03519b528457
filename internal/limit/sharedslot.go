package limit

import "sync"

// SharedSlot is a Slot that whoever took it may share: it is given back when the last one has
// let go. The zero SharedSlot is nothing.
type SharedSlot struct {
	mu      sync.Mutex
	slot    Slot
	holders int
	least   int64 // what it shrinks to when one holder is left; 0: it does not
}

// Take adds more to what it is, and holds it once.
func (s *SharedSlot) Take(more Slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders == 0 {
		s.slot, s.least = more, 0
	} else {
		more.n += s.slot.n // of the same pool and organisation
		s.slot = more
	}
	s.holders++
}

// Keep holds it once more, until release. ok is false where it was given back already.
func (s *SharedSlot) Keep() (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders == 0 {
		return nil, false
	}
	s.holders++
	return sync.OnceFunc(s.Release), true
}

// Shrink gives back what is more than n, when nobody else holds it.
func (s *SharedSlot) Shrink(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.least = max(n, 1); s.holders == 1 {
		s.slot.Shrink(s.least)
	}
}

// Release lets go once.
func (s *SharedSlot) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.holders {
	case 0:
		return
	case 1:
		s.slot.Release()
	case 2:
		if s.least > 0 {
			s.slot.Shrink(s.least)
		}
	}
	s.holders--
}
