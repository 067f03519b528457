// Package limit is admission control: it shares out what there is only so much of
// (requests at once, connections to a registry, memory, requests a minute) among
// organisations, so that one of them that asks for everything at the same time takes
// next to nothing from the others.
package limit

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// defaultWait lets a burst that is over in seconds go unnoticed, and leaves time
// to answer before clients give up on the header of an answer.
const defaultWait = 5 * time.Second

// Pool is an amount of something. What an organisation may not have now waits in a
// queue of its own, first come first served, and gets 503 after a while with the time
// to try again. Callers without an organisation are one more.
//
// The zero Pool limits nobody, and so does a nil one. It outlives configurations,
// which change its limits while requests run. Safe for concurrent use.
type Pool struct {
	// Total is what all have together; 0: any amount. A quarter of it is for those who
	// have nothing yet, or no more than what stays free: so one alone gets three
	// quarters, and whoever comes then is let in at once, however long the first one
	// holds what it has.
	Total int64
	// Most is what one organisation may have, unless SetLimits gave it a limit; 0:
	// any amount.
	Most int64
	// Small is how much of the last quarter whoever has nothing may have at once, and
	// nobody more. If 0, whoever has nothing may have what there is, and whoever has
	// something as much as stays free.
	Small int64
	// Levels says that for whoever waits a turn is ended of anybody who has more. If
	// false, that is only done for whoever has nothing.
	Levels bool
	// Wait is how long Acquire waits at most. If 0, 5 s.
	Wait time.Duration
	// Queue is how many of one organisation wait at most. If 0, as many as its
	// limit.
	Queue int
	// What is counted, and the configuration key of its limit, for the error. If
	// empty, requests.
	What, Key string

	mu      sync.Mutex
	used    int64
	arrived uint64
	granted uint64
	waiting int // in all queues
	parties map[share]*party
	has     map[string]*total // by organisation
	turns   map[*turn]struct{}
	ending  sync.Mutex // held while a turn is taken for somebody else
}

// share is whose it is: an organisation's, and what it is for where each such thing has
// its own.
type share struct{ organisation, at string }

// idleParties are how many parties are kept that have nothing and want nothing, since
// most come again.
const idleParties = 256

// total is what an organisation has at all its places, which are so many parties.
type total struct {
	n       int64
	parties int
}

// party is an organisation that has a limit, or has or wants something now. It is
// guarded by the pool's mutex.
type party struct {
	share

	all    *total
	limit  int64 // 0: the pool's Most
	used   int64
	served uint64 // the pool's count of grants at its last one
	queue  []*waiter
}

// waiter is one in a queue. Admission closes admitted.
type waiter struct {
	Want

	admitted chan struct{}
	arrived  uint64
}

// Want is what Acquire is to get.
type Want struct {
	Organisation string
	// At is what it is for: for each an organisation has as much. It may be empty.
	At string
	// N is how much. If 0, 1.
	N int64
	// Wait is how long to wait at most. If 0, as long as the pool says.
	Wait time.Duration
	// First: it goes before those of its queue that are not.
	First bool
	// Past is called when there would be a wait: true lets it in all the same. If nil,
	// it waits.
	Past func() bool
	// Before is called before a wait: an error of it is Take's. If nil, it waits at once.
	Before func() error
}

// impatience is how long what lasts is left alone, and how often somebody who waits has
// some of it ended.
const impatience = 2 * time.Second

// SetLimits replaces the limits, by organisation. What runs goes on and counts
// under the new limit; an organisation that is not in limits has the pool's Most.
func (p *Pool) SetLimits(limits map[string]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.parties {
		q.limit = 0
	}
	for organisation, limit := range limits {
		p.party(share{organisation: organisation}).limit = int64(limit)
	}
	p.admit()
	for _, q := range p.parties {
		p.forget(q)
	}
}

// Take waits for what w says. Without an error the caller releases the Slot.
func (p *Pool) Take(ctx context.Context, w Want) (Slot, error) {
	if p == nil {
		return Slot{}, nil
	}
	w.N = max(w.N, 1)
	if slot, err := p.now(w); err == nil {
		return slot, nil
	}
	if w.Before != nil {
		if err := w.Before(); err != nil {
			return Slot{}, err
		}
	}
	return p.wait(ctx, w)
}

// now is Take without any wait.
func (p *Pool) now(w Want) (Slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.party(share{w.Organisation, w.At})
	if slot, ok := p.free(q, w); ok {
		return slot, nil
	}
	return Slot{}, p.tooMany(q)
}

// free gives q what is free: nobody of its own queue is before it, and it fits. Where
// nothing is limited the slot is none. Caller holds mu.
func (p *Pool) free(q *party, w Want) (Slot, bool) {
	if p.Total == 0 && p.most(q) == math.MaxInt64 {
		p.forget(q)
		return Slot{}, true
	}
	if len(q.queue) > 0 || !p.fits(q, w) {
		return Slot{}, false
	}
	return p.grant(q, w.N), true
}

// wait takes a slot when it is w's turn.
func (p *Pool) wait(ctx context.Context, w Want) (Slot, error) {
	slot, waits, err := p.enqueue(w)
	if waits == nil {
		return slot, err
	}
	admitted, err := p.await(ctx, slot.party, waits)
	if admitted {
		return slot, nil
	}
	if refusal, ok := p.dequeue(slot.party, waits); ok {
		if err == nil {
			err = refusal
		}
		return Slot{}, err
	}
	return slot, nil // it was admitted in this moment
}

// await waits for admission. Without an error it is the time that was over.
func (p *Pool) await(ctx context.Context, q *party, waits *waiter) (admitted bool, err error) {
	timer := time.NewTimer(cmp.Or(waits.Wait, p.Wait, defaultWait))
	defer timer.Stop()
	again := time.NewTicker(impatience)
	defer again.Stop()
	for {
		select {
		case <-waits.admitted:
			return true, nil
		case <-again.C:
			p.endTurn(q, waits)
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// Charge takes n, whether there is that much or not: what has been used already, or
// may not wait.
func (p *Pool) Charge(organisation string, n int64) Slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.grant(p.party(share{organisation: organisation}), n)
}

// party is the one whose share is of, maybe a new one. Caller holds mu.
func (p *Pool) party(of share) *party {
	q := p.parties[of]
	if q == nil {
		if p.parties == nil {
			p.parties, p.has = map[share]*party{}, map[string]*total{}
		}
		all := p.has[of.organisation]
		if all == nil {
			all = &total{}
			p.has[of.organisation] = all
		}
		all.parties++
		q = &party{share: of, all: all}
		p.parties[of] = q
	}
	return q
}

// forget drops a party that has nothing, wants nothing and has no limit of its own, where
// there are many. Caller holds mu.
func (p *Pool) forget(q *party) {
	if len(p.parties) > idleParties && q.used == 0 && q.limit == 0 && len(q.queue) == 0 && p.parties[q.share] == q {
		delete(p.parties, q.share)
		if q.all.parties--; q.all.parties == 0 {
			delete(p.has, q.organisation)
		}
	}
}

func (p *Pool) grant(q *party, n int64) Slot {
	p.granted++
	q.served = p.granted
	q.used += n
	p.used += n
	q.all.n += n
	return Slot{p, q, n}
}

// most is what q may have. Caller holds mu.
func (p *Pool) most(q *party) int64 {
	return cmp.Or(q.limit, p.Most, math.MaxInt64)
}

// fits says whether q may have w now. What is more than its whole limit gets it
// alone. Caller holds mu.
func (p *Pool) fits(q *party, w Want) bool {
	if !p.within(q, w.N) {
		return false
	}
	stays, has := p.Total-p.used-w.N, q.all.n
	switch {
	case p.Total == 0, stays >= p.Total/4:
		return true
	case stays < 0:
		return false
	case p.Small > 0:
		return has == 0 && w.N <= p.Small
	}
	return has == 0 || has+w.N <= stays
}

// within says whether q may have n more by its own limit. Caller holds mu.
func (p *Pool) within(q *party, n int64) bool { return q.used == 0 || q.used <= p.most(q)-n }

// enqueue takes a slot, or a place in the queue.
func (p *Pool) enqueue(w Want) (Slot, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.party(share{w.Organisation, w.At})
	if slot, ok := p.free(q, w); ok { // since Take looked
		return slot, nil, nil
	}
	switch {
	case w.Past != nil && w.Past():
		return p.grant(q, w.N), nil, nil
	case int64(len(q.queue)) >= cmp.Or(int64(p.Queue), p.most(q)):
		return Slot{}, nil, p.tooMany(q)
	}
	p.arrived++
	waits := &waiter{Want: w, admitted: make(chan struct{}), arrived: p.arrived}
	at := len(q.queue)
	if w.First {
		if at = slices.IndexFunc(q.queue, func(other *waiter) bool { return !other.First }); at < 0 {
			at = len(q.queue)
		}
	}
	q.queue = slices.Insert(q.queue, at, waits)
	p.waiting++
	return Slot{p, q, w.N}, waits, nil
}

// dequeue gives up a place in the queue, and says why. False: it was admitted already.
func (p *Pool) dequeue(q *party, waits *waiter) (refusal error, ok bool) { //nolint:revive // the error is a value here, not how it went
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(q.queue, waits)
	if i < 0 {
		return nil, false
	}
	q.queue = slices.Delete(q.queue, i, i+1)
	p.waiting--
	refusal = p.tooMany(q)
	p.admit() // what is behind it may be smaller
	p.forget(q)
	return refusal, true
}

// admit lets in who waits, as many as fit: of several organisations the one that has
// least goes first, of two that have as much the one that came first. Caller holds mu.
func (p *Pool) admit() {
	for p.waiting > 0 {
		var next *party
		for _, q := range p.parties {
			if len(q.queue) == 0 || !p.fits(q, q.queue[0].Want) {
				continue
			}
			if next == nil || cmp.Or(cmp.Compare(q.all.n, next.all.n), cmp.Compare(q.queue[0].arrived, next.queue[0].arrived)) < 0 {
				next = q
			}
		}
		if next == nil {
			return
		}
		p.admitFirst(next)
	}
}

// admitFirst lets in the first of q's queue. Caller holds mu.
func (p *Pool) admitFirst(q *party) {
	p.grant(q, q.queue[0].N)
	close(q.queue[0].admitted)
	q.queue = slices.Delete(q.queue, 0, 1)
	p.waiting--
}

func (p *Pool) inUse() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Waiting is how many of each organisation wait.
func (p *Pool) Waiting() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string]int{}
	for _, q := range p.parties {
		if len(q.queue) > 0 {
			all[q.organisation] += len(q.queue)
		}
	}
	return all
}
