package cache

import (
	"context"
	"errors"
	"io"
	"os"

	"berth/cache/download"
	"berth/cache/store"
	"berth/internal/descriptor"
	"berth/oci"
)

// waitForCheck is the size up to which a part of a blob is sent only after the
// whole was verified. Reading more would take longer than clients wait.
const waitForCheck = 256 << 20

// fileBody is a published blob. Its length is what it was when it was opened: a
// file that is shorter by the time it is read must not end cleanly.
type fileBody struct {
	file      *os.File
	size, pos int64

	// check is the verification that runs while the blob is sent; nil: it was
	// verified before. ctx bounds the waiting for it.
	check *store.Check
	ctx   context.Context
	// held: the last byte waits for the check.
	held bool
	// openBypass gives what is left from the position on when the disk fails; nil: it
	// does not. bypass is where the bytes come from since.
	openBypass func(cause error) (io.ReadCloser, error)
	bypass     io.ReadCloser
}

// sound starts the verification of a blob that was not verified since the start,
// before any of it is sent to a reader of r. What is small, and parts of what is
// not too large, wait for its end; whoever wants all of a large blob gets all but
// the last byte meanwhile. It says false for one that is bad, and closes it: then
// it is not there any more.
func (s *source) sound(ctx context.Context, o oci.Object, c *oci.Content, r oci.Range) (bool, error) {
	b, ok := c.Body.(*fileBody)
	if !ok {
		return true, nil // memory was verified
	}
	check := s.c.folder.store().Check(s.place.folder, o.Digest, b.file, b.size)
	if check == nil {
		return true, nil
	}
	if _, err, _ := check.Done(); descriptor.Exhausted(err) {
		closeBody(b)
		return false, descriptor.Error(err)
	}
	if b.size > waitForCheck || b.size > download.VerifyFirst && !r.Bounded() {
		b.check, b.ctx, b.held = check, ctx, !r.Bounded()
		return true, nil
	}
	_, err := check.Wait(ctx)
	if err == nil {
		return true, nil
	}
	closeBody(b)
	if ctx.Err() != nil || errors.Is(err, store.ErrUnchecked) {
		return false, err
	}
	return false, nil
}

// stillSound says whether a kept blob, of which only the size was asked for, has that size
// and is not known to be bad. One that was not verified since the start is verified now.
func (s *source) stillSound(ctx context.Context, o oci.Object, size int64) (bool, error) {
	if o.Kind == oci.Manifest || s.c.folder.store().Verified(s.place.folder, o.Digest, size) {
		return true, nil
	}
	c, err := s.cached(o)
	if c == nil || err != nil {
		return false, err
	}
	defer c.Close()
	sound, err := s.sound(ctx, o, c, oci.Range{Length: 1})
	return sound && c.Size == size, err
}

// ready says how many bytes may go from the position on, at least one.
func (b *fileBody) ready() (int64, error) {
	left := b.size - b.pos
	if left <= 0 {
		return 0, io.EOF
	}
	if b.check == nil || b.bypass != nil {
		return left, nil
	}
	_, err, over := b.check.Done()
	if !over && b.held && left == 1 {
		over = true
		_, err = b.check.Wait(b.ctx)
	}
	if err != nil && b.openBypass != nil && !errors.Is(err, store.ErrMismatch) && b.ctx.Err() == nil { // it cannot be read
		if b.bypass, err = b.openBypass(err); err == nil {
			return left, nil
		}
	}
	switch {
	case err != nil && b.ctx.Err() != nil:
		return 0, err
	case err != nil:
		return 0, store.DiskError(err)
	case over:
		b.check = nil
		return left, nil
	case b.held:
		return left - 1, nil
	}
	return left, nil
}

func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.ready()
	if err != nil {
		return 0, err
	}
	got, err := b.from().Read(p[:min(int64(len(p)), n)])
	b.pos += int64(got)
	if b.bypass != nil {
		return got, err
	}
	return got, store.ReadError(err)
}

// from is where the bytes come from.
func (b *fileBody) from() io.Reader {
	if b.bypass != nil {
		return b.bypass
	}
	return b.file
}

func (b *fileBody) Seek(offset int64, whence int) (int64, error) {
	if b.bypass != nil {
		return 0, download.ErrNoSeek
	}
	pos, err := b.file.Seek(offset, whence)
	b.pos = pos
	return pos, err
}

// Piece is the next part of the file, for sendfile.
func (b *fileBody) Piece(limit int64) (io.Reader, error) {
	n, err := b.ready()
	if err != nil {
		return nil, err
	}
	return io.LimitReader(b.from(), min(limit, n)), nil
}

// Moved says how much of the piece was sent.
func (b *fileBody) Moved(n int64) { b.pos += n }

// Close ends the reading.
func (b *fileBody) Close() error {
	if b.bypass != nil {
		closeBody(b.bypass)
	}
	return b.file.Close()
}
