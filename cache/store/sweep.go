package store

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		_ = os.Chtimes(path, now, now) // only the order of eviction suffers
	}
}

// sweepRest is the shortest time between two sweeps. When nothing more can go,
// one would follow the other.
const sweepRest = time.Second

// sweep counts the folder, and then keeps a margin free so that reservations
// need not wait for evictions.
func (r *room) sweep(ctx context.Context) {
	r.count(ctx)
	old := time.NewTicker(time.Hour)
	defer old.Stop()
	for {
		for r.clear(shelfLife) {
		}
		if _, err := r.evict(ctx, r.margin()); err != nil && ctx.Err() == nil {
			r.o.Log.Warn("evicting from the cache", "err", err)
		}
		select {
		case <-time.After(sweepRest):
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

func (r *room) count(ctx context.Context) {
	r.evicting.Lock()
	defer r.evicting.Unlock()
	if _, err := r.survey(ctx); err != nil && ctx.Err() == nil {
		r.o.Log.Warn("counting the cache", "err", err)
	}
	close(r.counted)
}

// entry is a published blob.
type entry struct {
	path string
	size int64
	used time.Time
}

// survey lists the blobs, and sets right what they sum up to: others may have
// deleted some. Caller holds evicting.
func (r *room) survey(ctx context.Context) ([]entry, error) {
	r.begin()
	all, err := r.list(ctx)
	if err != nil {
		r.noteChanges(nil)
		return nil, err
	}
	r.sumUp(all)
	return all, nil
}

// begin notes changes from now on.
func (r *room) begin() { r.noteChanges(map[string]int64{}) }

func (r *room) noteChanges(in map[string]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = in
}

// sumUp counts what a walk saw since begin, but where something changed
// meanwhile: there the change counts.
func (r *room) sumUp(all []entry) {
	r.names.Lock() // no change is half done
	defer r.names.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.blobCount = 0, 0
	for _, e := range all {
		if _, ok := r.changed[e.path]; !ok {
			r.kept += e.size
			r.blobCount++
		}
	}
	for _, size := range r.changed {
		if size != gone {
			r.kept += size
			r.blobCount++
		}
	}
	r.changed = nil
}

// list walks the blobs. What is no blob is passed over, symbolic links too, and
// so is what cannot be read.
func (r *room) list(ctx context.Context) ([]entry, error) {
	var all []entry
	err := filepath.WalkDir(r.blobs, func(path string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && path == r.blobs:
			return err
		case err != nil, !e.Type().IsRegular(), !isBlob(path[len(r.blobs):]):
			return nil //nolint:nilerr // what cannot be read is passed over
		}
		if info, err := e.Info(); err == nil { // else evicted meanwhile
			all = append(all, entry{path: path, size: info.Size(), used: info.ModTime()})
		}
		return nil
	})
	return all, err
}

// isBlob says whether path is one that Store.path makes, "/origin/sha256/ab/ab...".
func isBlob(path string) bool {
	parts := strings.Split(path, "/")
	if len(parts) != 5 {
		return false
	}
	_, err := oci.ParseDigest(parts[2] + ":" + parts[4])
	return err == nil && strings.HasPrefix(parts[4], parts[3]) && len(parts[3]) == 2
}

// evict removes the least recently used blobs until n more bytes fit. Readers
// that have one open read on. Without progress, there is nothing to evict.
func (r *room) evict(ctx context.Context, n int64) (progress bool, err error) {
	r.evicting.Lock()
	defer r.evicting.Unlock()
	for !r.enough(n) && r.clear(0) { // what is left of downloads goes first
	}
	if r.enough(n) {
		return true, nil
	}
	all, err := r.survey(ctx)
	if err != nil {
		return false, err
	}
	slices.SortFunc(all, func(a, b entry) int { return a.used.Compare(b.used) })
	for _, e := range all {
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
	return r.enough(n), err
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
