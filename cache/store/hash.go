package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// hashStep is how much the hasher wants before it wakes: less would wake it
// for every packet.
const hashStep = 256 << 10

// hashing is the running SHA-256 of a growing blob. A writer that puts bytes
// where the hash stands hashes them from memory; what arrived ahead of it is read
// back once, by Hash.
type hashing struct {
	mu   sync.Mutex // held while hash takes in bytes
	hash hash.Hash
	pos  atomic.Int64 // how many bytes were hashed
}

// hashInOrder hashes p, which was just written at off, if the hash stands there.
// It does not wait for Hash, which may be reading back: that then comes to p too.
// Readers are not told of p before, so that Hash is not woken for it.
func (b *Blocks) hashInOrder(p []byte, off int64) {
	if b.hashing.pos.Load() != off || !b.hashing.mu.TryLock() {
		return
	}
	defer b.hashing.mu.Unlock()
	if b.hashing.pos.Load() == off {
		b.hashing.hash.Write(p) // a hash never fails
		b.hashing.pos.Add(int64(len(p)))
	}
}

// Hash waits until everything was hashed, reading back what writers did not hash
// from memory, and then says whether it is what its digest names: nil,
// ErrMismatch, the blob's own error, or ctx's cause. It may be called again after
// ctx has ended, and goes on where it was. One caller at a time, who hands
// ErrMismatch to Stop or Fail.
func (b *Blocks) Hash(ctx context.Context) error {
	buf := make([]byte, hashStep)
	for {
		if ctx.Err() != nil { // wait only looks where it has to sleep
			return context.Cause(ctx)
		}
		_, err := b.wait(ctx, &waiter{hasher: true, min: hashStep})
		if errors.Is(err, io.EOF) {
			return b.verify(b.hashing.hash)
		}
		if err == nil {
			err = b.hashBack(buf)
		}
		if err != nil {
			return err
		}
	}
}

// hashBack reads and hashes what can be read where the hash stands, as much as
// buf takes.
func (b *Blocks) hashBack(buf []byte) error {
	b.hashing.mu.Lock()
	defer b.hashing.mu.Unlock()
	off := b.hashing.pos.Load()
	b.mu.Lock()
	n := min(b.available(off, false), int64(len(buf)))
	b.mu.Unlock()
	if n == 0 {
		return nil // hashed from memory meanwhile
	}
	if _, err := b.store.disk.readAt(b.file, buf[:n], off); err != nil {
		if ended := b.Err(); ended != nil { // and the file closed
			return ended
		}
		return fmt.Errorf("reading back from the cache: %w", err)
	}
	b.hashing.hash.Write(buf[:n]) // a hash never fails
	b.hashing.pos.Add(n)
	return nil
}

func (b *Blocks) verify(h hash.Hash) error {
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != b.digest.Encoded() {
		return fmt.Errorf("%w: wanted %s, got %s", ErrMismatch, b.digest.Encoded(), got)
	}
	// Before the last byte goes out: who has it may come at once for more.
	b.writing.Lock()
	b.uncharge()
	b.writing.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err // it was given up meanwhile, and stays so
	}
	b.verified = true
	b.wakeReady()
	return nil
}
