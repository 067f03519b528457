package cache

import "berth/cache/store"

// demand picks the most urgent run of absent bytes: what a waiting reader lacks
// goes before what others will want, and that before the rest of the blob.
func (f *fill) demand() (start, end int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, waiting := range []bool{true, false} {
		for rd := range f.readers {
			if rd.waiting != waiting {
				continue
			}
			if s, e, lacks := rd.lacks(f.blocks); lacks && (!ok || s < start) {
				start, end, ok = s, e, true
			}
		}
		if ok {
			return start, end, true
		}
	}
	if f.whole || f.small() {
		return f.blocks.Missing(0, -1, runLength)
	}
	return 0, 0, false
}

// small objects are always fetched whole: they are verified before they leave.
func (f *fill) small() bool { return f.blocks.Size() <= verifyFirst }

// lacks is the first run that the reader needs and that is not there. Caller
// holds the fill's mutex.
func (rd *reader) lacks(b *store.Blocks) (start, end int64, ok bool) {
	size := b.Size()
	from, to := max(rd.pos, rd.start(size)), rd.end(size)
	if rd.want.Sparse {
		to = min(to, from+1) // only what it stands before
	}
	if from >= to {
		return 0, 0, false
	}
	return b.Missing(from, to, runLength)
}
