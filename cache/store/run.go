package store

import "fmt"

// Take claims the first run of absent, unclaimed bytes in [from, to). It is at most limit
// long, rounded up to the end of a block; ok is false when there is none. to < 0: the end
// of the blob. Release must follow.
func (b *Blocks) Take(from, to, limit int64) (r *Run, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start, end, ok := b.missing(from, to, limit)
	if !ok {
		return nil, false
	}
	return b.claim(start, end), true
}

func (b *Blocks) missing(from, to, limit int64) (start, end int64, ok bool) {
	if to < 0 || to > b.size {
		to = b.size
	}
	block := from / BlockSize
	for ; block*BlockSize < to && !b.absent(block); block++ {
	}
	if block*BlockSize >= to {
		return 0, 0, false
	}
	start = block*BlockSize + b.filled[block]
	end = b.blockEnd(block)
	// A block that has a beginning already starts a run of its own.
	for block++; end < to && end-start < limit && b.absent(block) && b.filled[block] == 0; block++ {
		end = b.blockEnd(block)
	}
	return start, end, true
}

func (b *Blocks) blockEnd(block int64) int64 { return min((block+1)*BlockSize, b.size) }

// absent says whether block needs fetching and nobody does it. Caller holds mu.
func (b *Blocks) absent(block int64) bool {
	return b.claimed[block] == nil && block*BlockSize+b.filled[block] < b.blockEnd(block)
}

// Run is a claim on a part of the blob. It is an io.Writer for the bytes from
// its start on; bytes that are there already are passed over.
type Run struct {
	b          *Blocks
	pos, end   int64 // end < 0: open, to wherever the stream ends
	firstClaim int64
	lastClaim  int64
	allocated  bool // room in the file was asked for
}

// Claim takes [start, end) for one writer, but for what others have claimed.
// end < 0: everything from start on. Release must follow.
func (b *Blocks) Claim(start, end int64) *Run {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.claim(start, end)
}

func (b *Blocks) claim(start, end int64) *Run {
	to := end
	if to < 0 {
		to = max(b.size, start+1)
	}
	r := &Run{b: b, pos: start, end: end, firstClaim: start / BlockSize, lastClaim: (to - 1) / BlockSize}
	for i := r.firstClaim; i <= r.lastClaim; i++ {
		if b.claimed[i] == nil { // a stream that ignores ranges passes through others' runs
			b.claimed[i] = r
		}
	}
	return r
}

// Release gives back what was not written. The bytes that were stay.
func (r *Run) Release() {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	for i := r.firstClaim; i <= r.lastClaim; i++ {
		if r.b.claimed[i] == r {
			delete(r.b.claimed, i)
		}
	}
}

// Pos is where the next byte goes.
func (r *Run) Pos() int64 { return r.pos }

// End is where the run ends, -1 for wherever the stream does.
func (r *Run) End() int64 { return r.end }

// Write puts p at the run's position. Bytes beyond the run, or behind a hole,
// are ErrMismatch: the upstream sent something else than it was asked for. Of a
// blob that has failed it is that error; others are our disk's.
func (r *Run) Write(p []byte) (int, error) {
	if r.end >= 0 && r.pos+int64(len(p)) > r.end {
		return 0, fmt.Errorf("%d bytes too many: %w", r.pos+int64(len(p))-r.end, ErrMismatch)
	}
	total := 0
	for len(p) > 0 {
		n, err := r.writeInBlock(p)
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

// writeInBlock writes as much of p as the block at the position takes.
func (r *Run) writeInBlock(p []byte) (int, error) {
	b := r.b
	// Two runs can meet in a block. What one of them has written may have been
	// read and hashed; the other must not write over it. The kernel locks the
	// file for a write anyway.
	b.writing.Lock()
	defer b.writing.Unlock()
	block, inBlock := r.pos/BlockSize, r.pos%BlockSize
	p = p[:min(int64(len(p)), BlockSize-inBlock)]
	b.mu.Lock()
	filled, size, err := b.filled[block], b.size, b.err
	b.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case inBlock > filled:
		return 0, fmt.Errorf("a run at %d leaves a hole: %w", r.pos, ErrMismatch)
	case inBlock < filled: // there already
		n := min(filled-inBlock, int64(len(p)))
		r.pos += n
		return int(n), nil
	}
	if size < 0 { // room for a blob of unknown length is reserved as it comes
		if err := b.store.capacity.reserve(b.account, int64(len(p)), int64(len(p))); err != nil {
			return 0, err
		}
		b.reserved += int64(len(p))
		b.charged += int64(len(p))
	}
	if n := r.end - r.pos; !r.allocated && n >= BlockSize {
		_ = b.store.disk.allocate(b.file, r.pos, n) // writing works without, or tells why not
	}
	r.allocated = true
	n, err := b.store.disk.writeAt(b.file, p, r.pos)
	if err != nil {
		return 0, fmt.Errorf("writing to the cache: %w", err)
	}
	b.hashInOrder(p[:n], r.pos)
	b.wrote(block, int64(n))
	r.pos += int64(n)
	return n, nil
}

// wrote makes n more bytes of block readable. Caller holds writing.
func (b *Blocks) wrote(block, n int64) {
	b.store.capacity.wrote(n)
	b.mu.Lock()
	b.filled[block] += n
	b.have += n
	b.wakeReady()
	whole := b.size >= 0 && block*BlockSize+b.filled[block] == b.blockEnd(block)
	b.mu.Unlock()
	if whole && b.notes != nil && b.notes.set(b.store.disk, block) != nil {
		b.dropNotes() // they would be wrong about what comes
	}
}

// End says that a blob of unknown length ends here.
func (b *Blocks) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size < 0 {
		b.size = b.have
	}
	b.wakeReady()
}
