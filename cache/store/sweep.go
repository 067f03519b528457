package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
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
func (r *room) sweep(ctx context.Context) {
	r.count(ctx)
	old := time.NewTicker(time.Hour)
	defer old.Stop()
	for {
		for r.clear(shelfLife) {
		}
		rest := sweepRest
		if !r.makeRoom(ctx) {
			rest = vainRest
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		select {
		case <-r.tight:
		case <-old.C:
		case <-ctx.Done():
			return
		}
	}
}

// makeRoom makes the margin, or at least what is to be left to others, and says
// whether there is the former.
func (r *room) makeRoom(ctx context.Context) bool {
	margin := r.margin()
	for _, n := range []int64{margin, 0} {
		if _, err := r.evict(ctx, n); err != nil && !errors.Is(err, ErrGone) && ctx.Err() == nil {
			r.o.Log.Warn("evicting from the cache", "err", err)
			return false
		}
		if r.enough(n) {
			return n == margin
		}
	}
	return false
}

func (r *room) count(ctx context.Context) {
	r.evicting.Lock()
	defer r.evicting.Unlock()
	if err := r.survey(ctx, func(entry) {}); err != nil && ctx.Err() == nil {
		r.o.Log.Warn("counting the cache", "err", err)
	}
	if n := r.foreigners(); n > 0 {
		r.o.Log.Info("the cache folder holds files that are not the cache's; they are left alone", "files", n)
	}
	close(r.counted)
}

// evict removes what is left of downloads, and then the least recently used
// blobs, until n more bytes fit. Readers that have one open read on. Where all of
// them would not make enough room, as on a disk that others have filled, none
// goes: they are what pulls live on. Without progress, there is nothing to evict.
func (r *room) evict(ctx context.Context, n int64) (progress bool, err error) {
	r.evicting.Lock()
	defer r.evicting.Unlock()
	if r.gone() {
		return false, ErrGone
	}
	if r.leftoversSuffice(n) {
		r.clearFor(n)
	}
	for !r.enough(n) {
		went, failed := r.evictOldest(ctx, n)
		progress = progress || went
		if !went || ctx.Err() != nil {
			return progress || r.enough(n), failed
		}
	}
	return true, nil
}

func (r *room) leftoversSuffice(n int64) bool {
	has := r.disk.space(r.blobs)
	r.mu.Lock()
	defer r.mu.Unlock()
	within := r.o.MaxSize <= 0 || n <= r.o.MaxSize-r.kept-r.growing+r.shelved()
	return within && r.fits(n, has, gain{})
}

// clearFor discards the oldest leftovers until n bytes fit.
func (r *room) clearFor(n int64) {
	for !r.enough(n) && r.clear(0) {
	}
}

// evictOldest is one round of evict.
func (r *room) evictOldest(ctx context.Context, n int64) (progress bool, err error) {
	old := oldest{need: r.lacks(n)}
	if err := r.survey(ctx, old.see); err != nil {
		return false, err
	}
	if !r.worthwhile(n, old.most) {
		return false, nil
	}
	r.clearFor(n)
	for _, e := range old.sorted() {
		if r.enough(n) {
			return true, nil
		}
		went, failed := r.evictOne(e)
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

// worthwhile says whether n bytes fit when most has come free.
func (r *room) worthwhile(n int64, most gain) bool {
	has := r.disk.space(r.blobs)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fits(n, has, most)
}

// lacks is how many bytes must go for n to fit.
func (r *room) lacks(n int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return n - r.free()
}

// evictOne removes e, unless it was used since it was listed.
func (r *room) evictOne(e entry) (done bool, err error) {
	done, err = r.removeIf(e.path, func(now fs.FileInfo) bool { return now.ModTime().Equal(e.used) })
	if done {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.evicted++
	}
	return done, err
}
