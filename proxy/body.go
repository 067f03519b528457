package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"berth/oci"
)

var (
	errClosed    = errors.New("the body is closed")
	errUnordered = errors.New("the body cannot be read in this order")
)

// body is what is sent of a Content. It remembers how reading failed, since
// http.ServeContent drops that; seeks only when it must; and can be closed
// while ServeContent's multipart goroutine still holds it.
type body struct {
	src    io.ReadCloser
	seeker io.Seeker  // nil: read from the front only
	piecer oci.Piecer // nil: nothing for the kernel
	size   int64      // of the object; -1: unknown

	mu     sync.Mutex
	pos    int64 // where the next read begins
	at     int64 // where src stands
	err    error // the first one that is not io.EOF
	closed bool
}

func newBody(c *oci.Content) *body {
	b := &body{src: c.Body, size: c.Size}
	b.seeker, _ = c.Body.(io.Seeker)
	b.piecer, _ = c.Body.(oci.Piecer)
	if b.seeker == nil {
		b.pos, b.at, b.piecer = c.Offset, c.Offset, nil
	}
	return b
}

// memoryBody is a body of bytes.
func memoryBody(data []byte) *body {
	r := bytes.NewReader(data)
	return &body{src: inMemory{r}, seeker: r, size: int64(len(data))}
}

type inMemory struct{ *bytes.Reader }

// Close does nothing.
func (inMemory) Close() error { return nil }

// Read reads on. Whether the end came too early is for the writer to say.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.settle(); err != nil {
		return 0, err
	}
	n, err := b.src.Read(p)
	b.pos += int64(n)
	b.at = b.pos
	if err != nil && !errors.Is(err, io.EOF) {
		b.keep(err)
	}
	return n, err
}

// Seek only notes the position: ServeContent seeks to the end and back to learn
// the size, which is known.
func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += b.pos
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seeking to %d", offset)
	}
	b.pos = offset
	return offset, nil
}

// settle brings src to where the next read begins.
func (b *body) settle() error {
	switch {
	case b.closed:
		return errClosed
	case b.err != nil:
		return b.err
	case b.at == b.pos:
		return nil
	case b.seeker == nil:
		b.keep(errUnordered)
		return b.err
	}
	if _, err := b.seeker.Seek(b.pos, io.SeekStart); err != nil {
		b.keep(fmt.Errorf("seeking to %d: %w", b.pos, err))
		return b.err
	}
	b.at = b.pos
	return nil
}

// piece is at most limit bytes for the kernel, from where the next read begins.
func (b *body) piece(limit int64) (*io.LimitedReader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.settle(); err != nil {
		return nil, err
	}
	r, err := b.piecer.Piece(limit)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			b.keep(err)
		}
		return nil, err
	}
	if limited, ok := r.(*io.LimitedReader); ok {
		return limited, nil
	}
	return &io.LimitedReader{R: r, N: limit}, nil
}

// moved says how much of a piece was read.
func (b *body) moved(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.piecer.Moved(n)
	b.pos += n
	b.at = b.pos
}

// memory is the rest of a body of bytes, if it is one and the rest is at most
// limit.
func (b *body) memory(limit int64) (*bytes.Reader, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.src.(inMemory)
	if !ok || b.settle() != nil || int64(m.Len()) > limit {
		return nil, false
	}
	return m.Reader, true
}

// fail remembers what went wrong with the bytes outside of Read.
func (b *body) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(err)
}

func (b *body) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

// failure is how reading failed, if it did. What ended early is Corrupt: the
// Source has tried everything before it gives less than it said.
func (b *body) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.err, io.ErrUnexpectedEOF) {
		if e, ok := errors.AsType[*oci.Error](b.err); ok {
			return e
		}
		return &oci.Error{Class: oci.Corrupt, Message: "the content was cut short: pull again", Err: b.err}
	}
	return b.err
}

// close ends reading. Where a read is still under way (a client left in the
// middle of a multipart answer), giveUp must make it return.
func (b *body) close(giveUp func()) {
	if !b.mu.TryLock() {
		giveUp()
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.closed = true
	b.src.Close() //nolint:errcheck // everything that matters was read
}
