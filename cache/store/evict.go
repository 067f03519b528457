package store

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"berth/oci"
)

// touchEvery is how coarse last-use times are: a blob's modification time is
// its last use, moved at most this often so that reading costs no write.
const touchEvery = time.Minute

// used notes that the blob at path, which was last used at last, was opened. A
// time in the future is one that a wrong clock has left.
func used(path string, last time.Time) {
	if now := time.Now(); now.Sub(last).Abs() > touchEvery {
		now = markedBy(last).mark(now)
		_ = os.Chtimes(path, now, now) // only the order of eviction suffers
	}
}

const (
	// sweepRest is the shortest time between two sweeps.
	sweepRest = time.Second
	// vainRest is that after a sweep that made too little room: the next one would
	// find no more, and looks at every blob for it.
	vainRest = time.Minute
	// evictWait is how long a reservation waits for the sweeper to make room. What is
	// pulled goes past the disk then.
	evictWait = 5 * time.Second
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
		c.attend(ctx, time.After(rest), nil)
		c.attend(ctx, old.C, c.tight)
		if ctx.Err() != nil {
			return
		}
	}
}

// ask is a want of a reservation, and where to say what came of it.
type ask struct {
	want
	done chan asked
}

type asked struct {
	progress bool
	err      error
}

// attend makes room for those who ask for it, until it is time to sweep.
func (c *capacity) attend(ctx context.Context, until <-chan time.Time, tight <-chan struct{}) {
	for {
		select {
		case a := <-c.asks:
			progress, err := c.evict(ctx, a.want)
			a.done <- asked{progress, err}
		case <-until:
			return
		case <-tight:
			return
		case <-ctx.Done():
			return
		}
	}
}

// askFor has the sweeper evict for w: that walks through all of the folder, which no
// request should have to do. It waits for evictWait.
func (c *capacity) askFor(w want) (progress bool, err error) {
	limit := time.NewTimer(evictWait)
	defer limit.Stop()
	a := ask{w, make(chan asked, 1)}
	asks := c.asks
	for {
		select {
		case asks <- a:
			asks = nil
		case came := <-a.done:
			return came.progress, came.err
		case <-limit.C:
			return false, &NoRoom{w.n, LackBusy}
		case <-c.ctx.Done():
			return false, ErrGone
		}
	}
}

// makeRoom makes the margin, or at least what is to be left to others, and says
// whether there is the former.
func (c *capacity) makeRoom(ctx context.Context) bool {
	margin := c.margin(c.disk.space(c.blobs))
	for _, n := range []int64{margin, 0} {
		if _, err := c.evict(ctx, want{n: n}); err != nil && !errors.Is(err, ErrGone) && ctx.Err() == nil {
			c.o.Log.Warn("evicting from the cache", "err", err)
			return false
		}
		if c.short(n) <= 0 {
			return n == margin
		}
	}
	return false
}

// evict removes partials, and then blobs, until w fits: those that nobody has used for
// ownFor, and then the least recently used ones of whoever has the most. Readers that
// have one open read on. Where all that may go would not make enough room, as on a disk
// that others have filled, none goes: they are what pulls live on. Without progress,
// there is nothing to evict.
func (c *capacity) evict(ctx context.Context, w want) (progress bool, err error) {
	n := w.n
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if c.gone() {
		return false, ErrGone
	}
	if c.fitsWithout(gain{}, n) {
		c.dropPartials(n)
	}
	for c.short(n) > 0 {
		went, failed := c.evictSome(ctx, w)
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

// evictSome is one round of evict.
func (c *capacity) evictSome(ctx context.Context, w want) (progress bool, err error) {
	n := w.n
	all, held := c.candidates(w), c.held(ctx)
	if err := c.walk(ctx, func(e entry) {
		if !held[e.path] {
			all.see(e)
		}
	}); err != nil {
		return false, err
	}
	if !c.fitsWithout(all.mayGo(), n) {
		return false, nil
	}
	c.dropPartials(n)
	all.trim()
	least := 0
	if all.byFiles { // the next blob, however small, needs one more
		least = fewOldest / 4
	}
	for gone := 0; ; gone++ {
		if gone >= least && c.short(n) <= 0 {
			return true, nil
		}
		e, ok := all.next()
		if !ok {
			break
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

// heldShare is which part of what may be kept may be held: whoever moves many tags
// shall not take the cache from others.
const heldShare = 4

// held are the paths of blobs that stay.
func (c *capacity) held(ctx context.Context) map[string]bool {
	if c.o.Held == nil {
		return nil
	}
	left := cmp.Or(c.o.MaxSize, c.disk.space(c.blobs).total) / heldShare
	all := map[string]bool{}
	c.o.Held(ctx, func(origin string, d oci.Digest) {
		path := c.path(origin, d)
		info, err := os.Lstat(path)
		if err != nil || all[path] || info.Size() > left {
			return
		}
		left -= info.Size()
		all[path] = true
	})
	return all
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

// candidates are the blobs that could go, and whose they are.
type candidates struct {
	want
	now  time.Time
	need int64
	// byFiles: the filesystem lacks files, so that those count, and not bytes.
	byFiles bool
	// idle ones go first, the oldest before the others; the rest by owner.
	idle   group
	owners map[owner]*group
	seen   int // and not trimmed
}

// group is the blobs of one owner.
type group struct {
	all  []entry // the oldest first, after trim
	gain gain    // if all of them went
	// weight is what the owner has, with what is being fetched for him.
	weight int64
	// more: the disk has others, newer than these.
	more bool
}

// candidates are none yet, but what is being fetched counts already.
func (c *capacity) candidates(w want) *candidates {
	all := &candidates{
		want: w, now: time.Now(), need: c.short(w.n), owners: map[owner]*group{},
		byFiles: c.disk.space(c.blobs).files < minInodes,
	}
	if all.byFiles {
		return all
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, n := range c.charged {
		all.of(a.owner).weight += n
	}
	all.of(w.owner).weight += w.n
	return all
}

func (c *candidates) of(o owner) *group {
	g := c.owners[o]
	if g == nil {
		g = &group{}
		c.owners[o] = g
	}
	return g
}

func (c *candidates) weigh(e entry) int64 {
	if c.byFiles {
		return 1
	}
	return max(e.size, block)
}

// see takes e in.
func (c *candidates) see(e entry) {
	g := &c.idle
	if c.now.Sub(e.used).Abs() < ownFor {
		g = c.of(markedBy(e.used))
	}
	g.weight += c.weigh(e)
	g.gain.add(e.frees)
	g.all = append(g.all, e)
	if c.seen++; c.seen >= mostOldest {
		c.trim()
	}
}

// mayGo is what would come free if everything went that may for this want.
func (c *candidates) mayGo() gain {
	all := c.idle.gain
	for o, g := range c.owners {
		if !c.own || o == c.owner {
			all.add(g.gain)
		}
	}
	return all
}

// trim lets go of what is not needed, and of the later half of what is still too much.
func (c *candidates) trim() {
	few, most := max(fewOldest/(len(c.owners)+1), 16), max(mostOldest/2/(len(c.owners)+1), 16)
	c.idle.trim(c.need, few, most)
	c.seen = len(c.idle.all)
	for _, g := range c.owners {
		g.trim(c.need, few, most)
		c.seen += len(g.all)
	}
}

// next takes out the blob that goes next; ok is false where the disk has to be looked at
// again, or nothing is left.
func (c *candidates) next() (e entry, ok bool) {
	if e, ok = c.idle.pop(c); ok || c.idle.more {
		return e, ok
	}
	if c.own {
		return c.of(c.owner).pop(c)
	}
	var most *group
	for _, g := range c.owners {
		if (len(g.all) > 0 || g.more) && (most == nil || g.weight > most.weight) {
			most = g
		}
	}
	if most == nil {
		return entry{}, false
	}
	return most.pop(c)
}

func (g *group) pop(c *candidates) (e entry, ok bool) {
	if len(g.all) == 0 {
		return entry{}, false
	}
	e, g.all = g.all[0], g.all[1:]
	g.weight -= c.weigh(e)
	return e, true
}

// trim keeps the oldest, as many as have the needed bytes.
func (g *group) trim(need int64, few, most int) {
	slices.SortFunc(g.all, func(a, b entry) int { return a.used.Compare(b.used) })
	var sum int64
	for i, e := range g.all {
		if i >= few && sum >= need || i >= most {
			clear(g.all[i:]) // their paths
			g.all, g.more = g.all[:i], true
			return
		}
		sum += e.size
	}
}
