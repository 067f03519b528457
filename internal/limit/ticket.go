package limit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Call is what somebody wants of a host.
type Call struct {
	Organisation string
	// Blob: it fetches bytes of a blob. Everything else is short.
	Blob bool
	// Proof: it is about a right.
	Proof bool
	// Past is called when it would have to wait: true lets it go out all the same. If
	// nil, it waits.
	Past func() bool
}

// Ticket is the right to have one call under way at a host, until Close.
type Ticket struct {
	host  *Host
	call  Call
	spent atomic.Bool // the request that was waited for was sent

	mu     sync.Mutex
	slot   Slot
	away   bool // the slot was given back for now
	closed bool
}

// Admit waits until c may begin. Without an error the caller closes the Ticket.
func (h *Host) Admit(ctx context.Context, c Call) (*Ticket, error) {
	t := &Ticket{host: h, call: c}
	w := t.want()
	switch {
	case c.Proof:
		w.Wait = proofWait
	case c.Blob:
		w.Wait = blobWait
	}
	w.Past, w.First = c.Past, c.Proof
	err := h.wait(ctx, w)
	if err == nil {
		t.slot, err = t.take(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// take waits for a turn. Blobs may last for hours, and sixteen that are under way leave
// none: whoever has none then gets one of those that have most, which waits for another
// in the middle of its blob.
func (t *Ticket) take(ctx context.Context, w Want) (Slot, error) {
	if !t.call.Blob {
		return t.pool().Take(ctx, w)
	}
	w.Impatient = func() { t.host.endTurn(w.Organisation) }
	slot, err := t.pool().Take(ctx, w)
	if err == nil {
		t.host.mu.Lock()
		defer t.host.mu.Unlock()
		t.host.turns[t] = time.Now()
	}
	return slot, err
}

// release ends the turn; give is what becomes of its slot. Caller holds mu.
func (t *Ticket) release(give func(Slot)) {
	t.host.mu.Lock()
	delete(t.host.turns, t)
	t.host.mu.Unlock()
	give(t.slot)
}

// endTurn pauses, where organisation waits and has no turn, the one that has lasted longest
// of whoever has most.
func (h *Host) endTurn(organisation string) {
	h.ending.Lock()
	defer h.ending.Unlock()
	if h.blobs.of(organisation) > 0 {
		return
	}
	var chosen *Ticket
	var most int64
	var since time.Time
	h.mu.Lock()
	for t, begun := range h.turns {
		if n := h.blobs.of(t.call.Organisation); time.Since(begun) >= impatience && (n > most || n == most && begun.Before(since)) {
			chosen, most, since = t, n, begun
		}
	}
	h.mu.Unlock()
	if chosen != nil {
		chosen.pause(Slot.passOn)
	}
}

func (t *Ticket) pool() *Pool {
	switch {
	case t.call.Blob:
		return t.host.blobs
	case t.call.Proof:
		return t.host.proofs
	}
	return t.host.requests
}

// Organisation is whose call it is.
func (t *Ticket) Organisation() string { return t.call.Organisation }

func (t *Ticket) want() Want { return Want{Organisation: t.call.Organisation} }

// Spend counts a request to the host called key. The first one to the ticket's own host
// has been waited for. More of them (tokens, redirects, what is sent again) cannot
// wait, as a call under way has little time: they are paid for by those that come
// later. One that was sent to another registry by a redirect needs what is left there:
// else whoever has a registry could spend another's limits with it. One to a host that is
// no registry's (a CDN) is the organisation's alone: the registry does not see it.
func (t *Ticket) Spend(key string) error {
	if key != t.host.key {
		if h := t.host.all.known(key); h != nil {
			return h.take(t.call.Organisation)
		}
		t.host.bucket(t.call.Organisation).charge()
		return nil
	}
	if t.spent.Swap(true) {
		t.host.charge(t.call.Organisation)
	}
	return nil
}

// Pause gives the slot back while nobody reads what the call brings.
func (t *Ticket) Pause() { t.pause(Slot.Release) }

func (t *Ticket) pause(give func(Slot)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.away && !t.closed {
		t.away = true
		t.release(give)
	}
}

// Resume waits for another slot after Pause.
func (t *Ticket) Resume(ctx context.Context) error {
	t.mu.Lock()
	away := t.away && !t.closed
	t.mu.Unlock()
	if !away {
		return nil
	}
	// It is in the middle of something: whoever begins waits for it, and it is not given
	// up for those that came meanwhile.
	w := t.want()
	w.First, w.Wait = true, blobWait
	slot, err := t.take(ctx, w)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slot, t.away = slot, false
	if t.closed {
		t.release(Slot.Release)
	}
	return nil
}

// Close ends the call. It may be called more than once.
func (t *Ticket) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed && !t.away {
		t.release(Slot.Release)
	}
	t.closed = true
}
