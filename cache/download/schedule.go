package download

import (
	"cmp"
	"maps"
	"slices"

	"berth/cache/store"
)

// mostUrgent claims the run of absent bytes that is to be fetched next: what a
// reader waits for goes before what readers will want, and that before the rest
// of the blob.
func (d *Download) mostUrgent() (*store.Run, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	limit := d.runLimit()
	all := slices.SortedFunc(maps.Keys(d.readers), func(a, b *Reader) int { return cmp.Compare(a.pos, b.pos) })
	for _, rd := range all {
		if !rd.waiting {
			continue
		}
		if run, ok := rd.claimAtPosition(d.blocks, limit); ok {
			return run, true
		}
	}
	for _, rd := range all {
		if run, ok := rd.claimAhead(d.blocks, limit); ok {
			return run, true
		}
	}
	if d.whole || d.verifiesFirst() {
		return d.blocks.Take(0, -1, limit)
	}
	return nil, false
}

// runLimit is how long a run may be: shorter towards the end when several workers
// share it, so that none of them keeps the others waiting for long. Caller holds
// the lock.
func (d *Download) runLimit() int64 {
	if d.pool.extras == 0 {
		return runLength
	}
	left := d.blocks.Size() - d.blocks.Have()
	limit := max(4*store.BlockSize, left/int64(2*(d.pool.extras+1)))
	if d.share != nil { // a piece in which two runs meet would be read by both
		piece := d.share.Piece()
		limit = (limit + piece - 1) / piece * piece
	}
	return min(runLength, limit)
}

// claimAhead claims the first run that the reader will need and that nobody
// fetches. Caller holds the download's lock.
func (rd *Reader) claimAhead(b *store.Blocks, limit int64) (*store.Run, bool) {
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

// claimAtPosition claims the run that the reader's next byte lies in, if nobody
// fetches it. Caller holds the download's lock.
func (rd *Reader) claimAtPosition(b *store.Blocks, limit int64) (*store.Run, bool) {
	run, ok := rd.claimAhead(b, limit)
	if !ok || run.Pos()/store.BlockSize == max(rd.pos, rd.start(b.Size()))/store.BlockSize {
		return run, ok
	}
	run.Release()
	return nil, false
}
