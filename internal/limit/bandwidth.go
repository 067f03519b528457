package limit

import (
	"context"
	"sync"
	"time"

	"berth/internal/pause"

	"golang.org/x/time/rate"
)

// mostAtOnce bounds one read where bandwidth is limited, so that downloads take turns
// of one size, and leastBurst what may come at once however little the limit is.
const (
	mostAtOnce = 32 << 10
	leastBurst = 64 << 10
)

// bandwidth limits bytes a second, of each organisation and of the node. The zero one
// limits nothing.
type bandwidth struct {
	mu      sync.Mutex
	node    *rate.Limiter // nil: no limit
	parties map[string]*rate.Limiter
}

// SetBandwidth replaces the limits, in bytes a second from upstream: of the node, and of
// organisations; 0: none.
func (a *Hosts) SetBandwidth(node int64, parties map[string]int64) {
	b := &a.bandwidth
	b.mu.Lock()
	defer b.mu.Unlock()
	b.node = limiter(b.node, node)
	next := map[string]*rate.Limiter{}
	for organisation, most := range parties {
		if l := limiter(b.parties[organisation], most); l != nil {
			next[organisation] = l
		}
	}
	b.parties = next
}

// limiter is l for another limit: what is under way goes on as fast as that allows. A
// tenth of a second's worth may come at once.
func limiter(l *rate.Limiter, most int64) *rate.Limiter {
	burst := int(max(most/10, leastBurst))
	switch {
	case most <= 0:
		return nil
	case l == nil:
		return rate.NewLimiter(rate.Limit(most), burst)
	}
	l.SetLimit(rate.Limit(most))
	l.SetBurst(burst)
	return l
}

// of are the limits that t is under: the node's, and of those of the organisations that it
// is for the one with most left. Where one of them has no limit, own is nil.
func (b *bandwidth) of(t *Ticket, now time.Time) (own, node *rate.Limiter) {
	b.mu.Lock()
	own, node = b.parties[t.Organisation()], b.node
	b.mu.Unlock()
	if own == nil || t.call.Along == nil {
		return own, node
	}
	along := t.call.Along()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, organisation := range along {
		l := b.parties[organisation]
		if l == nil {
			return nil, node
		}
		if l.TokensAt(now) > own.TokensAt(now) {
			own = l
		}
	}
	return own, node
}

// Most is how many of n bytes to read at once.
func (t *Ticket) Most(n int) int {
	if own, node := t.host.all.bandwidth.of(t, time.Now()); own == nil && node == nil {
		return n
	}
	return min(n, mostAtOnce)
}

// Read waits until the n bytes that were read, no more than Most, may have come. Who
// reads first has the first turn, so that what is under way takes turns.
//
// What is small has a time limit and does not wait. Its organisation's later downloads
// pay for it. Of the node's it takes what is free at the moment: if others had to pay for
// the rest, whoever asks his own fast registry for small things could stop them all.
func (t *Ticket) Read(ctx context.Context, n int) error {
	if n <= 0 {
		return nil
	}
	now, n := time.Now(), min(n, mostAtOnce)
	own, node := t.host.all.bandwidth.of(t, now)
	var delay, ofNode time.Duration
	if own != nil {
		delay = own.ReserveN(now, n).DelayFrom(now)
	}
	switch {
	case node == nil:
	case t.call.Blob:
		ofNode = node.ReserveN(now, n).DelayFrom(now)
	default:
		node.AllowN(now, n)
	}
	if !t.call.Blob {
		return nil
	}
	return t.sleep(ctx, own, now.Add(ofNode), now.Add(max(delay, ofNode)))
}

// sleep waits until a time. After the earlier one it ends as soon as another organisation
// that the call is for may go faster than own lets it.
func (t *Ticket) sleep(ctx context.Context, own *rate.Limiter, earlier, until time.Time) error {
	for now := time.Now(); now.Before(until); now = time.Now() {
		wait := until.Sub(now)
		if t.call.Along != nil {
			if other, _ := t.host.all.bandwidth.of(t, now); other != own && !now.Before(earlier) {
				return nil
			}
			wait = min(wait, lookAlong)
		}
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}
