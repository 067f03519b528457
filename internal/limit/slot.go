package limit

import "sync"

// Slot is what one has until Release. The zero Slot is nothing.
type Slot struct {
	pool  *Pool
	party *party
	n     int64
}

// Shrink gives back what is more than n.
func (s *Slot) Shrink(n int64) {
	if s.n > n {
		Slot{s.pool, s.party, s.n - n}.Release()
		s.n = n
	}
}

// passOn is Release where it goes to somebody else who has nothing: to the one that had
// something longest ago, and not to the one that has waited longest, who may have others
// in line that came before.
func (s Slot) passOn() {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	s.take()
	var next *party
	for _, q := range p.parties {
		if q != s.party && len(q.queue) > 0 && q.all.n == 0 && p.fits(q, q.queue[0].Want) && (next == nil || q.served < next.served) {
			next = q
		}
	}
	if next != nil {
		p.admitFirst(next)
	}
	p.admit()
	p.forget(s.party)
}

// Release makes room for those who wait. It must be called once.
func (s Slot) Release() {
	if s.pool == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.take()
	s.pool.admit()
	s.pool.forget(s.party)
}

// take takes it from whoever has it. Caller holds the pool's mu.
func (s Slot) take() {
	s.party.used -= s.n
	s.pool.used -= s.n
	s.party.all.n -= s.n
}

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

// Lasts notes that it lasts as long as a client likes: end is called once where somebody
// else waits for it, maybe while over is called. over comes before Release.
func (s *SharedSlot) Lasts(end func()) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slot.lasts(end)
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
