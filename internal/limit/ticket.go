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
	// Along are the organisations that it is for as well, at this moment. It counts
	// against whichever of them has room first, so that whoever joins what another one has
	// begun is not kept by that one's limits. Nil: there is none.
	Along func() []string
	// Blob: it fetches bytes of a blob. Everything else is short.
	Blob bool
	// Proof: it is about a right.
	Proof bool
	// Past is called when it would have to wait: true lets it go out all the same. If
	// nil, it waits.
	Past func() bool
	// Before is called once, before it waits for whatever it may be, or where a question
	// about a right would wait: an error of that is Admit's. It may take its time. If nil,
	// nothing is called.
	Before func(context.Context) error
}

// Ticket is the right to have one call under way at a host, until Close.
type Ticket struct {
	host  *Host
	call  Call
	payer atomic.Pointer[string] // the organisation that it counts against
	spent atomic.Bool            // the request that was waited for was sent

	mu     sync.Mutex
	slot   Slot
	over   func() // of a blob's turn
	away   bool   // the slot was given back for now
	closed bool
}

// Admit waits until c may begin. Without an error the caller closes the Ticket.
func (h *Host) Admit(ctx context.Context, c Call) (*Ticket, error) {
	t := &Ticket{host: h, call: c}
	var before func() error
	if c.Before != nil {
		before = sync.OnceValue(func() error { return c.Before(ctx) })
	}
	slot, payer, err := t.first(ctx, c.Organisation, func(ctx context.Context, organisation string) (Slot, error) {
		w := Want{Organisation: organisation, Past: c.Past, First: c.Proof, Before: before}
		switch {
		case c.Proof:
			w.Wait = proofWait
		case c.Blob:
			w.Wait = blobWait
		}
		if before != nil {
			question, err := h.proofs.now(Want{Organisation: organisation, N: 1})
			question.Release()
			if err != nil { // the question about the right would wait too
				if err := before(); err != nil {
					return Slot{}, err
				}
			}
		}
		if err := h.wait(ctx, w); err != nil {
			return Slot{}, err
		}
		return t.pool().Take(ctx, w)
	})
	if err != nil {
		return nil, err
	}
	t.begin(slot, payer)
	return t, nil
}

// lookAlong is how often it is looked who else has come that a call is for.
const lookAlong = 250 * time.Millisecond

// first has take wait as organisation, and besides as each of those that the call is for
// as well, and gives what comes first, and to whom. The error is that of organisation.
func (t *Ticket) first(ctx context.Context, organisation string, take func(context.Context, string) (Slot, error)) (Slot, string, error) {
	if t.call.Along == nil {
		slot, err := take(ctx, organisation)
		return slot, organisation, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var takes sync.WaitGroup
	defer takes.Wait()
	defer cancel()
	type taken struct {
		slot Slot
		by   string
		err  error
	}
	came, waiting, refused := make(chan taken), map[string]bool{}, error(nil)
	begin := func(by string) {
		waiting[by] = true
		takes.Go(func() {
			slot, err := take(ctx, by)
			select {
			case came <- taken{slot, by, err}:
			case <-ctx.Done():
				slot.Release()
			}
		})
	}
	begin(organisation)
	looks := time.NewTicker(lookAlong)
	defer looks.Stop()
	for pending := 1; pending > 0; {
		select {
		case got := <-came:
			if got.err == nil {
				return got.slot, got.by, nil
			}
			if pending--; refused == nil || got.by == organisation {
				refused = got.err
			}
		case <-looks.C:
			for _, by := range t.call.Along() {
				if !waiting[by] {
					begin(by)
					pending++
				}
			}
		case <-ctx.Done():
			return Slot{}, "", context.Cause(ctx)
		}
	}
	return Slot{}, "", refused
}

// begin has the turn count against payer. Blobs may last for hours, and sixteen that are
// under way leave none: whoever has none then gets one of those that have most, which waits
// for another in the middle of its blob. Caller holds mu, where others know the ticket.
func (t *Ticket) begin(slot Slot, payer string) {
	t.slot = slot
	t.payer.Store(&payer)
	if t.call.Blob {
		t.over = slot.lasts(func() { t.pause(Slot.passOn) })
	}
}

// release ends the turn; give is what becomes of its slot. Caller holds mu.
func (t *Ticket) release(give func(Slot)) {
	if t.over != nil {
		t.over()
	}
	give(t.slot)
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

// Organisation is the one that the call counts against.
func (t *Ticket) Organisation() string { return *t.payer.Load() }

// Spend counts a request to the host called key. The first one to the ticket's own host
// has been waited for. More of them (tokens, redirects, what is sent again) cannot
// wait, as a call under way has little time: they are paid for by those that come
// later. One that was sent to another registry by a redirect needs what is left there:
// else whoever has a registry could spend another's limits with it. One to a host that is
// no registry's (a CDN) is the organisation's alone: the registry does not see it.
func (t *Ticket) Spend(key string) error {
	if key != t.host.key {
		if h := t.host.all.known(t.host.owner, key); h != nil {
			return h.take(t.Organisation())
		}
		t.host.bucket(t.Organisation()).charge()
		return nil
	}
	if t.spent.Swap(true) {
		t.host.charge(t.Organisation())
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
	slot, payer, err := t.first(ctx, t.Organisation(), func(ctx context.Context, organisation string) (Slot, error) {
		return t.pool().Take(ctx, Want{Organisation: organisation, First: true, Wait: blobWait})
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin(slot, payer)
	if t.away = false; t.closed {
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
