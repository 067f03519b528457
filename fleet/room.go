package fleet

import (
	"context"
	"time"

	"berth/fleet/seal"
	"berth/internal/pause"
)

const (
	// maxAhead is how much may have come from the registry without being in the bucket. If
	// this node dies, another one fetches it again. Four connections have a part of 8 MiB each
	// half there, as a rule, and one part is written meanwhile.
	maxAhead = 20 << 20
	// behindWithin, behindFor: when waiting for the bucket has cost the patience, without such
	// a pause between, no download waits for it for the second.
	behindWithin, behindFor = time.Minute, 10 * time.Minute
)

// Moved says that n bytes came from the registry, the first of which is at off.
func (o *Object) Moved(off int64, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for to := off + int64(n); off < to; {
		part := seal.PartAt(off)
		_, end := seal.Range(part, o.size)
		more := min(end, to) - off
		o.came[part] += more
		o.ahead.Add(more)
		off += more
	}
	o.moved.Add(int64(n))
}

// Room waits until more may come from the registry: until the bucket has enough of what
// came before, if this node fetches for the others too. It does not wait while nothing is
// being written, for then it takes more bytes to complete a part.
func (o *Object) Room(ctx context.Context) error {
	for o.ahead.Load() >= maxAhead && o.writes() && o.t.waitsForBucket() {
		if err := pause.For(ctx, scanEvery); err != nil {
			return err
		}
	}
	return nil
}

// writes says whether a part is being written, or is about to be.
func (o *Object) writes() bool {
	o.mu.Lock()
	keeping := o.keeping && !o.alone
	o.mu.Unlock()
	if !keeping || o.puts.Load() > 0 {
		return keeping
	}
	part, _, _ := o.nextPart()
	return part >= 0
}

// behind is how long downloads have waited for a bucket that takes parts more slowly than
// the registry sends them.
type behind struct {
	spent time.Duration
	last  time.Time // when one waited last
	until time.Time // none waits until then
}

// waitsForBucket says whether downloads wait for the bucket, of which the caller is one:
// not for longer than the patience, all together, for what is lost without it is little.
func (t *Tier) waitsForBucket() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, now := &t.behind, time.Now()
	if now.Before(b.until) {
		return false
	}
	since := now.Sub(b.last)
	if b.last = now; since > behindWithin {
		b.spent = 0
	}
	if b.spent += min(since, 2*scanEvery); b.spent < t.o.Patience {
		return true
	}
	b.spent, b.until = 0, now.Add(behindFor)
	t.o.Log.Info("the fleet's bucket takes bytes more slowly than a registry sends them, and is not waited for in the next ten minutes: whoever dies meanwhile takes more than 32 MiB with it that another node fetches again")
	return false
}
