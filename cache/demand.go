package cache

import (
	"cmp"
	"maps"
	"slices"

	"berth/cache/store"
)

// demand claims the most urgent run of absent bytes: what a reader waits for
// goes before what readers will want, and that before the rest of the blob.
func (f *fill) demand() (*store.Run, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.SortedFunc(maps.Keys(f.readers), func(a, b *reader) int { return cmp.Compare(a.pos, b.pos) })
	for _, rd := range all {
		if !rd.waiting {
			continue
		}
		if run, ok := rd.stuck(f.blocks, f.runLimit()); ok {
			return run, true
		}
	}
	for _, rd := range all {
		if run, ok := rd.lacks(f.blocks, f.runLimit()); ok {
			return run, true
		}
	}
	if f.whole || f.small() {
		return f.blocks.Take(0, -1, f.runLimit())
	}
	return nil, false
}

// runLimit is how long a run may be: shorter towards the end when several
// workers share it, so that none of them keeps the others waiting for long.
// Caller holds the fill's mutex.
func (f *fill) runLimit() int64 {
	if f.extras == 0 {
		return runLength
	}
	left := f.blocks.Size() - f.blocks.Have()
	return min(runLength, max(4*store.BlockSize, left/int64(2*(f.extras+1))))
}

// small objects are always fetched whole: they are verified before they leave.
func (f *fill) small() bool { return f.blocks.Size() <= verifyFirst }

// lacks claims the first run that the reader needs and that nobody fetches.
// Caller holds the fill's mutex.
func (rd *reader) lacks(b *store.Blocks, limit int64) (*store.Run, bool) {
	size := b.Size()
	from, to := max(rd.pos, rd.start(size)), rd.end(size)
	if rd.want.Sparse {
		to = min(to, from+1) // only what it stands before
	}
	if from >= to {
		return nil, false
	}
	return b.Take(from, to, limit)
}

// stuck is lacks for the very byte that the reader stands before.
func (rd *reader) stuck(b *store.Blocks, limit int64) (*store.Run, bool) {
	run, ok := rd.lacks(b, limit)
	if !ok || run.Pos()/store.BlockSize == max(rd.pos, rd.start(b.Size()))/store.BlockSize {
		return run, ok
	}
	run.Release()
	return nil, false
}
