package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// BlockSize is the unit in which a growing blob is claimed and kept.
const BlockSize = 1 << 20

// Errors that end a growing blob for all its readers.
var (
	// ErrMismatch: what came is not what the digest names, or not what was asked for.
	ErrMismatch = errors.New("the content does not match its digest")
	// ErrDiscarded: nobody finishes this blob any more.
	ErrDiscarded = errors.New("the download was given up")
)

// Blocks is a blob on its way to the disk: a sparse file of blocks that are
// absent, being written, or present. Writers claim runs of absent blocks;
// readers wait for bytes; a hasher follows the front of what is there.
//
// It is safe for concurrent use. Someone must call Hash, and in the end Publish,
// Park or Discard.
type Blocks struct {
	store  *Store
	origin string
	digest oci.Digest
	repo   string // Account.Repo
	file   *os.File
	tmp    string // of file, until Publish
	path   string // after Publish

	// writing is held by whoever changes the file: a writer, Publish, Discard.
	// It comes before mu.
	writing sync.Mutex
	notes   *notes // of what is there; nil: none are taken
	account account
	// reserved bytes of the cache, and those of them that are charged to the account
	// until the blob is verified, guarded by writing.
	reserved, charged int64
	hashing           hashing

	mu   sync.Mutex
	size int64 // -1 until the end of a blob of unknown length
	// filled is how many bytes of each block are there, from its start. Bytes
	// below it never change: a reader may have them already.
	filled   map[int64]int64
	claimed  map[int64]*Run
	have     int64 // sum of filled
	verified bool
	ended    bool  // published or discarded
	err      error // why this blob will never be whole
	wrong    bool  // err is that some bytes are wrong
	told     bool  // readers may learn of err: what the blob held is given back
	waiters  map[*waiter]struct{}
}

// waiter is a reader, or the hasher, that sleeps until bytes at off are there.
type waiter struct {
	off  int64
	min  int64 // how many, unless the blob ends before
	held bool  // the last byte counts only after verification
	// hasher: it waits where the hash stands, wherever that has come to.
	hasher bool
	wake   chan struct{}
}

// NewBlocks makes room for a blob of size bytes (-1: unknown) and an empty file
// for it. The error is about our disk; ErrNoRoom if there is none.
func (s *Store) NewBlocks(by Account, origin string, d oci.Digest, size int64) (*Blocks, error) {
	key := partialKey{blobKey{origin, d}, by.Repo}
	s.capacity.dropPartial(key) // it is fetched from the start now
	reserved, a := max(size, 0), account{s.owner(by.Organisation), by.Own}
	f, err := s.newFile(a, d, reserved)
	switch {
	case errors.Is(err, unix.EFBIG): // FAT has no files from 4 GiB on
		return nil, &NoRoom{size, LackLimit}
	case err != nil:
		return nil, err
	}
	b := s.newBlocks(a, key, f, max(size, -1))
	b.reserved, b.charged, b.filled = reserved, reserved, map[int64]int64{}
	if size > notedFrom {
		// Without notes a restart costs more, and nothing else.
		b.notes, _ = s.disk.newNotes(b.tmp, noted{Boot: s.o.Boot, Origin: origin, Digest: d, Size: size, Owner: a.owner, Own: a.own, Repo: by.Repo})
	}
	return b, nil
}

func (s *Store) newBlocks(a account, key partialKey, f *os.File, size int64) *Blocks {
	b := &Blocks{
		store: s, account: a, origin: key.origin, digest: key.digest, repo: key.repo, file: f, tmp: f.Name(), path: s.capacity.path(key.origin, key.digest), size: size,
		claimed: map[int64]*Run{}, waiters: map[*waiter]struct{}{},
	}
	b.hashing.hash = key.digest.Algorithm().Hash()
	return b
}

// newFile reserves size bytes and makes a sparse file of them in tmp.
func (s *Store) newFile(a account, d oci.Digest, size int64) (f *os.File, err error) {
	if err := s.capacity.reserve(a, size, size); err != nil {
		return nil, err
	}
	if err = ErrGone; !s.Gone() {
		f, err = s.disk.createTemp(s.tmp(), d.Encoded()[:16]+"-*", size)
	}
	if err == nil {
		return f, nil
	}
	s.capacity.uncharge(a, size)
	s.capacity.giveBack(size, 0)
	return nil, fmt.Errorf("making a file in the cache: %w", err)
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

// OpenReader opens the file once more, with its own position. The error is
// fs.ErrNotExist for a blob that was discarded, or published and evicted since.
func (b *Blocks) OpenReader() (*os.File, error) {
	fd, err := b.store.disk.open(b.tmp)
	if errors.Is(err, fs.ErrNotExist) {
		fd, err = b.store.disk.open(b.finalPath()) // renamed before, or just now
	}
	if err != nil {
		return nil, fmt.Errorf("opening a growing blob: %w", err)
	}
	return os.NewFile(uintptr(fd), b.finalPath()), nil
}

func (b *Blocks) finalPath() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.path
}

// Has says whether all bytes of [from, to) are there.
func (b *Blocks) Has(from, to int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for from < to {
		n := b.available(from, false)
		if n == 0 {
			return false
		}
		from += n
	}
	return true
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

// Ready says how many bytes can be read at off, and does not wait: 0 and no error
// mean "not yet". See Wait for held.
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
	if b.wrong { // nothing more of it may go out, also of what is there
		return 0, b.failure()
	}
	if w.hasher {
		w.off = b.hashing.pos.Load()
	}
	if b.size >= 0 && w.off >= b.size && (b.verified || !w.held) {
		return 0, io.EOF
	}
	if n := b.available(w.off, w.held); n >= w.min || n > 0 && w.off+n == b.size {
		return n, nil
	}
	return 0, b.failure()
}

// failure is why no more bytes come, once readers may learn of it. Caller holds
// mu.
func (b *Blocks) failure() error {
	if b.told {
		return b.err
	}
	return nil
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

// Stop ends the blob with err, if it is not verified. The first error stays.
// Writers get it at once, and if it is ErrMismatch no further byte goes out.
// Readers wait on until Fail or Discard: a client that is told comes back
// at once, and must find the room of this blob free by then.
func (b *Blocks) Stop(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop(err)
}

func (b *Blocks) stop(err error) {
	if b.err == nil && !b.verified {
		b.err = err
		b.wrong = errors.Is(err, ErrMismatch)
	}
}

// Fail ends the blob with err as Stop does, and wakes the readers: each gets the
// error where bytes are missing; if it is ErrMismatch, at once.
func (b *Blocks) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop(err)
	b.told = b.err != nil
	b.wakeReady()
}
