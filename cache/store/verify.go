package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"berth/internal/flight"
	"berth/oci"
)

// ErrUnchecked says that a blob could not be verified, and nothing about the blob.
var ErrUnchecked = errors.New("no check is possible")

// Check is the verification of a published blob that this process has not yet
// verified: disks forget. It ends with nil, ErrMismatch, or trouble with reading.
type Check = flight.Call[struct{}]

// checks knows which blobs are good, and has the checks that run.
type checks struct {
	running *flight.Group[blobKey, struct{}]

	mu sync.Mutex
	// good has the size of each blob that was verified since the start. A file
	// of another size is not what was verified.
	good map[soundness]int64
	// bad are those that could not be deleted.
	bad map[blobKey]bool
}

// soundness is a blob, in as little memory as may be: there can be a million.
// Half of a digest is enough to tell them apart.
type soundness struct {
	origin string
	half   [16]byte
}

func newChecks() *checks {
	return &checks{running: flight.New[blobKey, struct{}](0), good: map[soundness]int64{}, bad: map[blobKey]bool{}}
}

func soundnessOf(origin, hexDigest string) (k soundness) {
	k.origin = origin
	_, _ = hex.Decode(k.half[:], []byte(hexDigest[:32])) // a digest is hex
	return k
}

// Verified says whether the blob, which has this size, was verified by this process.
func (s *Store) Verified(origin string, d oci.Digest, size int64) bool {
	c := s.checks
	c.mu.Lock()
	defer c.mu.Unlock()
	was, ok := c.good[soundnessOf(origin, d.Encoded())]
	return ok && was == size
}

func (c *checks) isGood(origin string, d oci.Digest, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good[soundnessOf(origin, d.Encoded())] = size
	delete(c.bad, blobKey{origin, d})
}

// forget is for a blob that was removed.
func (c *checks) forget(origin, hexDigest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.good, soundnessOf(origin, hexDigest))
}

func (c *checks) isBad(origin string, d oci.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad[blobKey{origin, d}] = true
}

func (c *checks) knownBad(origin string, d oci.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.bad) > 0 && c.bad[blobKey{origin, d}]
}

// Check verifies the blob that OpenBlob has opened, in the background and once
// for all who want to know. One that is bad is not there any more when the check
// is over. Nil: it was verified before.
func (s *Store) Check(origin string, d oci.Digest, f *os.File, size int64) *Check {
	if s.Verified(origin, d, size) {
		return nil
	}
	if s.capacity.ctx.Err() != nil {
		return unchecked(ErrGone)
	}
	own, err := duplicate(f)
	if err != nil {
		return unchecked(err)
	}
	check, started := s.checks.running.Start(blobKey{origin, d}, func(ctx context.Context) (none struct{}, err error) {
		defer func() { _ = own.Close() }() // only read from
		return none, s.check(ctx, blobKey{origin, d}, own, size)
	})
	if !started {
		_ = own.Close() // nothing was read from it
	}
	return check
}

// unchecked is a check that was not possible because of err.
func unchecked(err error) *Check {
	return flight.Failed[struct{}](fmt.Errorf("%w: %w", ErrUnchecked, err))
}

// duplicate gives the same file, which stays open when f is closed.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (s *Store) check(ctx context.Context, key blobKey, f *os.File, size int64) error {
	err := s.hashFile(ctx, key.digest, f, size)
	switch {
	case err == nil:
		if now, _, err := s.Stat(key.origin, key.digest); err == nil && now == size {
			s.checks.isGood(key.origin, key.digest, size)
		}
	case ctx.Err() == nil:
		s.Quarantine(key.origin, key.digest, f, err)
	}
	return err
}

// hashFile says whether f is what its digest names.
func (s *Store) hashFile(ctx context.Context, d oci.Digest, f *os.File, size int64) error {
	h := d.Algorithm().Hash()
	buf := make([]byte, hashStep)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.disk.readAt(f, buf[:min(hashStep, size-off)], off)
		h.Write(buf[:n]) // a hash never fails
		if off += int64(n); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading a blob: %w", err)
		}
		if n == 0 {
			break // shorter than it was
		}
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != d.Encoded() {
		return fmt.Errorf("%w: it has become %s", ErrMismatch, got)
	}
	return nil
}

// Quarantine takes a blob out that is not what its digest names, or cannot be
// read: f is what was found in its place. It is deleted; where that is not
// possible, it is not served any more.
func (s *Store) Quarantine(origin string, d oci.Digest, f *os.File, why error) {
	found, err := f.Stat()
	removed := false
	if err == nil {
		removed, err = s.capacity.removeIf(s.capacity.path(origin, d), func(now os.FileInfo) bool { return os.SameFile(now, found) })
	}
	switch {
	case !removed && (err == nil || errors.Is(err, fs.ErrNotExist)):
		return // it went already, and another may have its place
	case err != nil:
		s.checks.isBad(origin, d)
	}
	s.o.Log.Error("a kept blob has gone bad: it is fetched again when it is wanted", "digest", d, "origin", origin, "deleted", removed, "err", why)
	if s.o.Corrupt != nil {
		s.o.Corrupt(origin)
	}
}
