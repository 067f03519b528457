package fleet

import (
	"context"
	"time"

	"berth/fleet/seal"
	"berth/internal/pause"
)

const (
	// maxAhead is how much the registry may have been asked for that the others do not have
	// yet. If this node dies, another one asks for it again. What has come is not enough to
	// count: connections take in megabytes that nobody reads, where a machine is busy.
	maxAhead = 32 << 20
	// leastAsked is what it is asked for at once, at the least, and divides a part. Four
	// connections that are about half through a part of 8 MiB each leave room for the next
	// piece of one while its last part is written.
	leastAsked = 4 << 20
	// behindWithin, behindFor: when waiting for the bucket has cost the patience, without such
	// a pause between, no download waits for it for the second.
	behindWithin, behindFor = time.Minute, 10 * time.Minute
)

// fromRegistry is the step that goes there, up to what the fleet has. Whoever fetches for the
// others waits until they have enough of what was asked for before.
func (o *Object) fromRegistry(ctx context.Context, off, end int64) (Step, error) {
	for {
		s, ok := o.ask(off, end, false)
		if !ok && (!o.writes() || !o.t.waitsForBucket()) {
			s, ok = o.ask(off, end, true)
		}
		if ok {
			return s, nil
		}
		if err := pause.For(ctx, scanEvery); err != nil {
			return Step{}, err
		}
	}
}

// ask says up to where to ask now, and counts it; ok is false where that is too much, unless
// always is set.
func (o *Object) ask(off, end int64, always bool) (_ Step, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	until := int64(0)
	for part := seal.PartAt(off); until < end; {
		_, until = seal.Range(part, o.size)
		if part++; len(o.at[part]) > 0 && !o.alone {
			break
		}
	}
	until = min(until, end)
	if !o.keeping || o.alone {
		return Step{Until: until}, true
	}
	// Half of what is left, so that one connection asks for much at once, and many for little.
	most := max((maxAhead-o.ahead)/2, leastAsked)
	until = min(until, (off+most)/leastAsked*leastAsked)
	if o.ahead+until-off > maxAhead && !always {
		return Step{}, false
	}
	o.owe(off, until, 1)
	return Step{Until: until}, true
}

// owe counts bytes by part, or, by -1, no longer. Caller holds mu.
func (o *Object) owe(off, to, by int64) {
	for off < to {
		part := seal.PartAt(off)
		_, end := seal.Range(part, o.size)
		n := min(end, to) - off
		was := o.owed[part]
		o.owed[part] = max(was+by*n, 0)
		o.ahead += o.owed[part] - was
		off += n
	}
}

// Moved says that n bytes came from the registry.
func (o *Object) Moved(n int) { o.moved.Add(int64(n)) }

// Missed says that these bytes do not come, which the registry was to be asked for.
func (o *Object) Missed(off, to int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owe(off, to, -1)
}

// settle says that the others have a part.
func (o *Object) settle(part int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ahead -= o.owed[part]
	o.owed[part] = 0
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
