package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"
)

// touchEvery is how coarse last-use times are: a blob's modification time is
// its last use, moved at most this often so that reading costs no write.
const touchEvery = time.Minute

// used notes that the blob at path, which was last used at last, was opened. A
// time in the future is one that a wrong clock has left.
func used(path string, last time.Time) {
	if now := time.Now(); now.Sub(last).Abs() > touchEvery {
		_ = os.Chtimes(path, now, now) // only the order of eviction suffers
	}
}

const (
	// sweepRest is the shortest time between two sweeps.
	sweepRest = time.Second
	// vainRest is that after a sweep that made too little room: the next one would
	// find no more, and looks at every blob for it.
	vainRest = time.Minute
)

// sweep counts the folder, and then keeps a margin free so that reservations
// need not wait for evictions.
func (c *capacity) sweep(ctx context.Context) {
	c.count(ctx)
	old := time.NewTicker(time.Hour)
	defer old.Stop()
	for {
		for c.dropOldest(partialLife) {
		}
		rest := sweepRest
		if !c.makeRoom(ctx) {
			rest = vainRest
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		select {
		case <-c.tight:
		case <-old.C:
		case <-ctx.Done():
			return
		}
	}
}

// makeRoom makes the margin, or at least what is to be left to others, and says
// whether there is the former.
func (c *capacity) makeRoom(ctx context.Context) bool {
	margin := c.margin()
	for _, n := range []int64{margin, 0} {
		if _, err := c.evict(ctx, n); err != nil && !errors.Is(err, ErrGone) && ctx.Err() == nil {
			c.o.Log.Warn("evicting from the cache", "err", err)
			return false
		}
		if c.short(n) <= 0 {
			return n == margin
		}
	}
	return false
}

// evict removes partials, and then the least recently used blobs, until n more
// bytes fit. Readers that have one open read on. Where all of them would not make
// enough room, as on a disk that others have filled, none goes: they are what pulls
// live on. Without progress, there is nothing to evict.
func (c *capacity) evict(ctx context.Context, n int64) (progress bool, err error) {
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if c.gone() {
		return false, ErrGone
	}
	if c.fitsWithout(gain{}, n) {
		c.dropPartials(n)
	}
	for c.short(n) > 0 {
		went, failed := c.evictOldest(ctx, n)
		progress = progress || went
		if !went || ctx.Err() != nil {
			return progress || c.short(n) <= 0, failed
		}
	}
	return true, nil
}

// dropPartials discards the oldest partials until n bytes fit.
func (c *capacity) dropPartials(n int64) {
	for c.short(n) > 0 && c.dropOldest(0) {
	}
}

// evictOldest is one round of evict.
func (c *capacity) evictOldest(ctx context.Context, n int64) (progress bool, err error) {
	old := oldest{need: c.short(n)}
	if err := c.walk(ctx, old.see); err != nil {
		return false, err
	}
	if !c.fitsWithout(old.most, n) {
		return false, nil
	}
	c.dropPartials(n)
	old.trim()
	for _, e := range old.all {
		if c.short(n) <= 0 {
			return true, nil
		}
		went, failed := c.evictOne(e)
		progress = progress || went
		if failed != nil {
			err = failed // and the next one may go
		}
	}
	if progress {
		return true, nil
	}
	return false, err
}

// evictOne removes e, unless it was used since it was listed.
func (c *capacity) evictOne(e entry) (done bool, err error) {
	done, err = c.removeIf(e.path, func(now fs.FileInfo) bool { return now.ModTime().Equal(e.used) })
	if done {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.evicted++
	}
	return done, err
}

// How many blobs are remembered for eviction at a time: enough to get by those
// that cannot go, and not so many that they take much memory.
const (
	fewOldest  = 1 << 10
	mostOldest = 1 << 16
)

// oldest keeps the blobs that were used least recently, as many as have the needed
// bytes.
type oldest struct {
	need int64
	all  []entry // the oldest first, after trim
	// most is what would come free if every blob went.
	most gain
}

// see takes e in.
func (o *oldest) see(e entry) {
	o.most.kept += e.frees.kept
	o.most.bytes += e.frees.bytes
	o.most.files += e.frees.files
	if o.all = append(o.all, e); len(o.all) >= mostOldest {
		o.trim()
	}
}

// trim lets go of what is not needed, and of the later half of what is still too much.
func (o *oldest) trim() {
	slices.SortFunc(o.all, func(a, b entry) int { return a.used.Compare(b.used) })
	var sum int64
	for i, e := range o.all {
		if i >= fewOldest && sum >= o.need || i >= mostOldest/2 {
			clear(o.all[i:]) // their paths
			o.all = o.all[:i]
			return
		}
		sum += e.size
	}
}
