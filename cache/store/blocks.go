package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"berth/oci"
)

// BlockSize is the unit in which a growing blob is claimed and kept.
const BlockSize = 1 << 20

// Errors that end a growing blob for all its readers.
var (
	// ErrMismatch: all bytes came, and they are not what the digest names.
	ErrMismatch = errors.New("the content does not match its digest")
	// ErrDiscarded: nobody finishes this blob any more.
	ErrDiscarded = errors.New("the download was given up")
)

// Blocks is a blob on its way to the disk: a sparse file of blocks that are
// absent, being written, or present. Writers claim runs of absent blocks;
// readers wait for bytes; a hasher follows the front of what is there.
//
// It is safe for concurrent use. Someone must call Hash, and in the end Publish
// or Discard.
type Blocks struct {
	store  *Store
	origin string
	digest oci.Digest
	file   *os.File
	path   string // of file while in tmp, then its final one; under mu

	mu       sync.Mutex
	size     int64 // -1 until the end of a blob of unknown length
	reserved int64
	// filled is how many bytes of each block are there, from its start. Bytes
	// below it never change: a reader may have them already.
	filled   map[int64]int64
	claimed  map[int64]*Run
	have     int64 // sum of filled
	verified bool
	err      error // why this blob will never be whole
	waiters  map[*waiter]struct{}
}

// waiter is a reader, or the hasher, that sleeps until bytes at off are there.
type waiter struct {
	off  int64
	min  int64 // how many, unless the blob ends before
	held bool  // the last byte counts only after verification
	wake chan struct{}
}

// NewBlocks makes room for a blob of size bytes (-1: unknown) and an empty file
// for it. The error is about our disk.
func (s *Store) NewBlocks(origin string, d oci.Digest, size int64) (*Blocks, error) {
	if err := s.room.reserve(max(size, 0)); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.tmp(), d.Encoded()[:16]+"-*")
	if err == nil && size > 0 {
		err = f.Truncate(size)
	}
	if err != nil {
		s.room.freed(max(size, 0))
		if f != nil {
			_ = f.Close()
			_ = os.Remove(f.Name()) // best effort: tmp is emptied at the next start
		}
		return nil, fmt.Errorf("making a file in the cache: %w", err)
	}
	return &Blocks{
		store: s, origin: origin, digest: d, file: f, path: f.Name(),
		size: size, reserved: max(size, 0),
		filled: map[int64]int64{}, claimed: map[int64]*Run{}, waiters: map[*waiter]struct{}{},
	}, nil
}

// Size is the blob's size, -1 while it is unknown.
func (b *Blocks) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// Verified says whether all bytes are there and match the digest.
func (b *Blocks) Verified() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.verified
}

// Have is how many bytes are there.
func (b *Blocks) Have() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have
}

// Err is why the blob will never be whole, or nil.
func (b *Blocks) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// OpenReader opens the file once more, with its own position.
func (b *Blocks) OpenReader() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock() // held over the open: Publish renames under it
	f, err := os.Open(b.path)
	if err != nil {
		return nil, fmt.Errorf("opening a growing blob: %w", err)
	}
	return f, nil
}

// maxAvailable is how far ahead available looks: no caller reads more at once.
const maxAvailable = 16 << 20

// available is how many bytes can be read at off. Caller holds mu.
func (b *Blocks) available(off int64, held bool) int64 {
	end := off
	for end-off < maxAvailable {
		block := end / BlockSize
		to := block*BlockSize + b.filled[block]
		if to <= end {
			break
		}
		end = to
		if end%BlockSize != 0 {
			break
		}
	}
	if held && !b.verified {
		// One byte behind what is there where the length is unknown: any byte
		// may turn out to be the last.
		limit := b.size - 1
		if b.size < 0 {
			limit = b.have - 1
		}
		end = min(end, limit)
	}
	return max(end-off, 0)
}

// Ready is Wait without the sleep: 0 and no error mean "not yet".
func (b *Blocks) Ready(off int64, held bool) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ready(&waiter{off: off, min: 1, held: held})
}

// Wait sleeps until bytes at off can be read and says how many. With held, the
// last byte of the blob is not there until the whole is verified. At the end of
// the blob it returns io.EOF.
func (b *Blocks) Wait(ctx context.Context, off int64, held bool) (int64, error) {
	return b.wait(ctx, &waiter{off: off, min: 1, held: held})
}

// WaitVerified sleeps until the whole blob is verified.
func (b *Blocks) WaitVerified(ctx context.Context) error {
	for {
		if b.Verified() {
			return nil
		}
		// Waiting for a held byte past the end is waiting for verification.
		_, err := b.wait(ctx, &waiter{off: 1<<62 - 1, min: 1, held: true})
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

func (b *Blocks) wait(ctx context.Context, w *waiter) (int64, error) {
	w.wake = make(chan struct{}, 1)
	for {
		b.mu.Lock()
		n, err := b.ready(w)
		if n > 0 || err != nil {
			delete(b.waiters, w)
			b.mu.Unlock()
			return n, err
		}
		b.waiters[w] = struct{}{}
		b.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			b.mu.Lock()
			delete(b.waiters, w)
			b.mu.Unlock()
			return 0, context.Cause(ctx)
		}
	}
}

// ready says what w waits for: bytes, an error, or neither yet. Caller holds mu.
func (b *Blocks) ready(w *waiter) (int64, error) {
	if b.size >= 0 && w.off >= b.size && (b.verified || !w.held) {
		return 0, io.EOF
	}
	if n := b.available(w.off, w.held); n >= w.min || n > 0 && w.off+n == b.size {
		return n, nil
	}
	return 0, b.err
}

// wakeReady wakes those who can go on. Caller holds mu.
func (b *Blocks) wakeReady() {
	for w := range b.waiters {
		if n, err := b.ready(w); n > 0 || err != nil {
			select {
			case w.wake <- struct{}{}:
			default: // it is awake already
			}
		}
	}
}

// Fail ends the blob with err for everybody. The first error stays.
func (b *Blocks) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil && !b.verified {
		b.err = err
	}
	b.wakeReady()
}

// Take claims the first run of absent, unclaimed bytes in [from, to), at most
// limit long but for the rest of a block; ok is false when there is none. to < 0:
// the end of the blob. Release must follow.
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
}

// Claim takes [start, end) for one writer. end < 0: everything from start on.
// Release must follow.
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

// Done says whether the run is full.
func (r *Run) Done() bool { return r.end >= 0 && r.pos >= r.end }

// Write puts p at the run's position. Bytes beyond the run are an error: the
// upstream sent more than it was asked for. Other errors are our disk's.
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
	block, inBlock := r.pos/BlockSize, r.pos%BlockSize
	p = p[:min(int64(len(p)), BlockSize-inBlock)]
	b.mu.Lock()
	filled := b.filled[block]
	err := b.err
	b.mu.Unlock()
	if err == nil && inBlock > filled {
		err = fmt.Errorf("a run at %d leaves a hole", r.pos)
	}
	if err != nil {
		return 0, err
	}
	if skip := filled - inBlock; skip > 0 { // there already, perhaps read already
		n := min(skip, int64(len(p)))
		r.pos += n
		return int(n), nil
	}
	if b.size < 0 {
		if err := b.grow(int64(len(p))); err != nil {
			return 0, err
		}
	}
	n, err := b.file.WriteAt(p, r.pos)
	if err != nil {
		return 0, fmt.Errorf("writing to the cache: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r.pos += int64(n)
	// Another run may have come as far meanwhile.
	if to := inBlock + int64(n); to > b.filled[block] {
		b.have += to - b.filled[block]
		b.filled[block] = to
		b.wakeReady()
	}
	return n, nil
}

// grow reserves room for a blob of unknown length as it comes.
func (b *Blocks) grow(n int64) error {
	if err := b.store.room.reserve(n); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reserved += n
	return nil
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

// hashStep is how much the hasher wants before it wakes: less would wake it
// for every packet.
const hashStep = 256 << 10

// Hash follows the front of the blob until everything was hashed, and then
// says whether it is what its digest names: nil, ErrMismatch, the blob's own
// error, or ctx's cause. One caller at a time.
func (b *Blocks) Hash(ctx context.Context) error {
	h := b.digest.Algorithm().Hash()
	buf := make([]byte, hashStep)
	for off := int64(0); ; {
		n, err := b.wait(ctx, &waiter{off: off, min: hashStep})
		if errors.Is(err, io.EOF) {
			return b.verify(h)
		}
		if err != nil {
			return err
		}
		n = min(n, int64(len(buf)))
		if _, err := b.file.ReadAt(buf[:n], off); err != nil {
			return fmt.Errorf("reading back from the cache: %w", err)
		}
		h.Write(buf[:n]) // a hash never fails
		off += n
	}
}

func (b *Blocks) verify(h hash.Hash) error {
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != b.digest.Encoded() {
		return fmt.Errorf("%w: wanted %s, got %s", ErrMismatch, b.digest.Encoded(), got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verified = true
	b.wakeReady()
	return nil
}
