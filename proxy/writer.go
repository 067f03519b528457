package proxy

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"berth/oci"
)

const (
	// maxPiece is what is handed to the kernel at once. The write deadline is
	// renewed between pieces.
	maxPiece = 8 << 20
	// copyBuffer is what is copied at once where the kernel can't.
	copyBuffer = 64 << 10
	// leastProgress in each StallTimeout is what a client must take: about
	// 2 KiB/s, far below any link that images are pulled over, far above a client
	// that keeps a connection busy for its own sake.
	leastProgress = 64 << 10
)

// errLeft is in every error that says that the client takes no more.
var errLeft = errors.New("the client stopped taking the answer")

// writer is the http.ResponseWriter of an exchange. It holds the header back
// until the first byte of the body is there, so that a failure until then can
// still become a proper answer; bounds how long a client may take; and passes
// files on to the kernel.
type writer struct {
	under   http.ResponseWriter
	conn    *conn // nil: it is no Listener's
	control http.ResponseController
	stall   time.Duration
	buffers *sync.Pool // of *[copyBuffer]byte
	// copies says that the connection is no bare socket, so bytes go through us.
	copies bool
	// noBody says that the answer is to a HEAD.
	noBody bool
	// mayStart is asked once, right before the header leaves. Nil: yes.
	mayStart func(now time.Time) bool

	status    int
	started   bool
	startedAt time.Time
	sent      int64 // of the body
	err       error // why the client can get no more
}

// Header is what will be sent.
func (w *writer) Header() http.Header { return w.under.Header() }

// WriteHeader only remembers status: see start.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// reset takes back everything that has not left.
func (w *writer) reset() {
	w.status, w.err = 0, nil
	w.mayStart = nil
}

// start sends the header, unless it is too late.
func (w *writer) start() error {
	if w.started {
		return nil
	}
	now := time.Now() // once: it is asked for often enough to be seen in profiles
	if w.mayStart != nil && !w.mayStart(now) {
		w.err = errTooLate
		return w.err
	}
	w.WriteHeader(http.StatusOK)
	w.started, w.startedAt = true, now
	w.renew(now)
	w.under.WriteHeader(w.status)
	return nil
}

// renew gives the client another StallTimeout, or nearly: a connection that is
// asked for small things again and again would spend much of its time on that.
// A ResponseWriter without deadlines (in a test) goes without.
func (w *writer) renew(now time.Time) {
	if w.conn != nil {
		if now.Sub(w.conn.renewed) < w.stall/16 {
			return
		}
		w.conn.renewed = now
	}
	w.control.SetWriteDeadline(now.Add(w.stall)) //nolint:errcheck // see above
}

// Write sends p in steps, so that a large one has no shorter time per byte.
func (w *writer) Write(p []byte) (total int, err error) {
	renewed := !w.started
	if err := w.start(); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		if !renewed {
			w.renew(time.Now())
		}
		renewed = false
		n, err := w.under.Write(p[:min(len(p), copyBuffer)])
		total += n
		w.sent += int64(n)
		if err != nil {
			return total, w.left(err)
		}
		p = p[n:]
	}
	return total, nil
}

// ReadFrom sends src, which http.ServeContent hands over as an
// *io.LimitedReader. It is what keeps sendfile possible.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	if b, ok := limited.R.(*body); ok {
		if b.piecer != nil && !w.copies {
			return w.sendPieces(b, limited)
		}
		if m, ok := b.memory(limited.N); ok {
			return w.sendMemory(m, limited)
		}
	}
	return w.copy(limited)
}

// sendMemory skips the buffer for what is in memory anyway.
func (w *writer) sendMemory(m *bytes.Reader, limited *io.LimitedReader) (int64, error) {
	n, err := m.WriteTo(writeOnly{w})
	limited.N -= n
	return n, err
}

// writeOnly hides ReadFrom, which would come back here.
type writeOnly struct{ io.Writer }

// buffer is one of buffers, to be put back.
func (w *writer) buffer() *[copyBuffer]byte {
	if buf, ok := w.buffers.Get().(*[copyBuffer]byte); ok {
		return buf
	}
	return new([copyBuffer]byte)
}

func (w *writer) copy(src io.Reader) (total int64, err error) {
	buf := w.buffer()
	defer w.buffers.Put(buf)
	for {
		n, readErr := src.Read(buf[:])
		if n > 0 {
			m, err := w.Write(buf[:n])
			total += int64(m)
			if err != nil {
				return total, err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
}

// sendPieces sends at most limited.N bytes of b by way of the kernel.
func (w *writer) sendPieces(b *body, limited *io.LimitedReader) (total int64, err error) {
	for limited.N > 0 {
		piece, err := b.piece(min(limited.N, maxPiece))
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		before := piece.N
		n, err := w.sendPiece(piece)
		b.moved(before - piece.N)
		limited.N -= n
		total += n
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF // the file is shorter than its Content said
		}
		if err != nil {
			if w.started && w.err == nil {
				b.fail(unread(err))
			}
			return total, err
		}
	}
	return total, nil
}

// unread is why a file was not read, which is not about the connection.
func unread(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return &oci.Error{Class: oci.Disk, Message: "this node's disk failed while the content was sent: pull again", Err: err}
}

// sendPiece goes on after a deadline when the client took enough by then, since
// a whole piece may need longer. That is safe where as much left as was read,
// which is so with sendfile and not with a copy.
func (w *writer) sendPiece(piece *io.LimitedReader) (total int64, err error) {
	to, ok := w.under.(io.ReaderFrom)
	if !ok {
		return w.copy(piece)
	}
	if err := w.start(); err != nil {
		return 0, err
	}
	for {
		w.renew(time.Now())
		before := piece.N
		n, err := to.ReadFrom(piece)
		total += n
		w.sent += n
		switch {
		case err == nil:
			return total, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && n >= leastProgress && before-piece.N == n:
			continue
		case isGone(err):
			err = w.left(err)
		}
		return total, err
	}
}

// isGone tells a failing connection from a failing disk: sendfile reports both.
func isGone(err error) bool {
	for _, gone := range [...]error{os.ErrDeadlineExceeded, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// left notes that the connection is of no more use.
func (w *writer) left(err error) error {
	w.err = &oci.Error{Class: oci.ClientGone, Message: "the client stopped taking the answer", Err: errors.Join(errLeft, err)}
	return w.err
}

// finish sends a header that waited for a body in vain, and says what the body
// was lacking.
func (w *writer) finish() error {
	if w.err != nil {
		return w.err
	}
	if w.short() {
		return &oci.Error{Class: oci.Corrupt, Message: "the content ended before its size was reached: pull again"}
	}
	return w.start()
}

// short says whether less was written than Content-Length promised.
func (w *writer) short() bool {
	if w.noBody {
		return false
	}
	promised, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	return err == nil && w.sent < promised
}
