package limit

import (
	"cmp"
	"time"
)

// turn is what an organisation has of a pool for as long as somebody outside likes, and
// how that is ended.
type turn struct {
	*party

	n     int64
	begun time.Time
	end   func()
}

// lasts notes that s lasts as long as somebody outside likes: end is called once where
// somebody else is to have it, maybe while over is called, and must see to it itself.
// over comes before Release.
func (s Slot) lasts(end func()) (over func()) {
	if s.pool == nil {
		return func() {}
	}
	t := &turn{party: s.party, n: s.n, begun: time.Now(), end: end}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if s.pool.turns == nil {
		s.pool.turns = map[*turn]struct{}{}
	}
	s.pool.turns[t] = struct{}{}
	return func() {
		s.pool.mu.Lock()
		defer s.pool.mu.Unlock()
		delete(s.pool.turns, t)
	}
}

// endTurn ends a turn for q, which has waited for w for a while.
func (p *Pool) endTurn(q *party, w *waiter) {
	p.ending.Lock()
	defer p.ending.Unlock()
	if t := p.longest(q, w); t != nil {
		t.end()
	}
}

// longest takes out the turn that is to end for q: of whoever has most the largest, and of
// those the one that has lasted longest. Nil: there is none.
func (p *Pool) longest(q *party, w *waiter) (chosen *turn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.within(q, w.N) || q.all.n > 0 && !p.Levels {
		return nil
	}
	now := time.Now()
	for t := range p.turns {
		if now.Sub(t.begun) < impatience || t.all.n <= q.all.n {
			continue
		}
		if chosen == nil || cmp.Or(cmp.Compare(t.all.n, chosen.all.n), cmp.Compare(t.n, chosen.n), chosen.begun.Compare(t.begun)) > 0 {
			chosen = t
		}
	}
	delete(p.turns, chosen)
	return chosen
}
