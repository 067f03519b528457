package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
)

// hashStep is how much the hasher wants before it wakes: less would wake it
// for every packet.
const hashStep = 256 << 10

// Hash follows the front of the blob until everything was hashed, and then
// says whether it is what its digest names: nil, ErrMismatch, the blob's own
// error, or ctx's cause. One caller at a time, who hands ErrMismatch to Stop or
// Fail. The last byte goes out to readers after before, which may be nil.
func (b *Blocks) Hash(ctx context.Context, before func()) error {
	h := b.digest.Algorithm().Hash()
	buf := make([]byte, hashStep)
	for off := int64(0); ; {
		if ctx.Err() != nil { // wait only looks where it has to sleep
			return context.Cause(ctx)
		}
		n, err := b.wait(ctx, &waiter{off: off, min: hashStep})
		if errors.Is(err, io.EOF) {
			return b.verify(h, before)
		}
		if err != nil {
			return err
		}
		n = min(n, int64(len(buf)))
		if _, err := b.store.disk.readAt(b.file, buf[:n], off); err != nil {
			if ended := b.Err(); ended != nil { // and the file closed
				return ended
			}
			return fmt.Errorf("reading back from the cache: %w", err)
		}
		h.Write(buf[:n]) // a hash never fails
		off += n
	}
}

func (b *Blocks) verify(h hash.Hash, before func()) error {
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != b.digest.Encoded() {
		return fmt.Errorf("%w: wanted %s, got %s", ErrMismatch, b.digest.Encoded(), got)
	}
	if before != nil {
		before()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err // it was given up meanwhile, and stays so
	}
	b.verified = true
	b.wakeReady()
	return nil
}
