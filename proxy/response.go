package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"berth/oci"
)

// copyBuffer is what is copied at once where the kernel can't.
const copyBuffer = 64 << 10

// errLeft is in every error that says that the client takes no more.
var errLeft = errors.New("the client stopped taking the answer")

// response is the answer as it leaves to the client. The header waits for the
// first byte of the body, so that a failure until then can still become a proper
// answer. A client that takes too little in StallTimeout is left.
//
// A body leaves in one of four ways: writeWhole for what is in memory, sendFile for
// what lies in a file, copy for anything else, and copyToEnd for a stream whose
// digest is checked at its end.
type response struct {
	under   http.ResponseWriter
	conn    *conn // nil: it is no Listener's
	control http.ResponseController
	stall   time.Duration
	buffers *sync.Pool // of *[copyBuffer]byte
	// sendfile says that the connection is a bare socket. With TLS, bytes go
	// through us.
	sendfile bool
	// noBody says that the answer is to a HEAD.
	noBody bool
	// deadline must not have passed when the header leaves. Nil: there is none.
	deadline *headerDeadline
	// decided is called once, right before the header leaves, with its status. Nil:
	// nobody wants to know.
	decided func(status int)

	status    int
	started   bool
	startedAt time.Time
	sent      int64 // bytes of the body
	flushed   bool  // nothing of the beginning is in net/http's buffers
	err       error // why no more can be sent

	cutting sync.Mutex  // held while the deadline is set by cut
	isCut   atomic.Bool // somebody else waits for what the answer holds
	over    bool        // nothing is sent any more; guarded by cutting
}

// cut has the client taken for one that takes no more: others wait for what it holds. It
// is called while the answer leaves, or after that.
func (w *response) cut() {
	w.cutting.Lock()
	defer w.cutting.Unlock()
	if !w.over {
		w.isCut.Store(true)
		w.control.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // see extendTime
	}
}

// ended keeps cut from the connection, which may have another answer next.
func (w *response) ended() {
	w.cutting.Lock()
	defer w.cutting.Unlock()
	w.over = true
}

// start sends the header, unless it is too late.
func (w *response) start() error {
	if w.started {
		return nil
	}
	now := time.Now() // once: it is asked for often enough to be seen in profiles
	if w.deadline != nil && !w.deadline.stop(now) {
		w.err = errTooLate
		return w.err
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.decided != nil {
		w.decided(w.status)
		now = time.Now() // it may have waited
	}
	w.started, w.startedAt = true, now
	w.extendTime(now)
	w.under.WriteHeader(w.status)
	return nil
}

// extendTime gives the client another StallTimeout. It does nothing when it did so
// within the last sixteenth of one: on a connection with many small answers, setting
// the deadline for each would cost more than sending it.
func (w *response) extendTime(now time.Time) {
	if w.conn != nil {
		if now.Sub(w.conn.extended) < w.stall/16 {
			return
		}
		w.conn.extended = now
	}
	w.control.SetWriteDeadline(now.Add(w.stall)) //nolint:errcheck // a ResponseWriter without deadlines, as in a test, goes without
	if w.isCut.Load() {
		w.control.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // likewise
	}
}

// Write sends p in steps, so that a large one has no shorter time per byte.
func (w *response) Write(p []byte) (total int, err error) {
	fresh := !w.started
	if err := w.start(); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		if !fresh {
			w.extendTime(time.Now())
		}
		fresh = false
		n, err := w.under.Write(p[:min(len(p), copyBuffer)])
		total += n
		w.sent += int64(n)
		if err != nil {
			return total, w.clientLeft(err)
		}
		p = p[n:]
	}
	return total, nil
}

// copy sends n bytes of src, by way of a buffer; negative: all. Where src ends
// before, finish finds the answer shorter than its Content-Length.
func (w *response) copy(src io.Reader, n int64) error {
	buf := w.buffer()
	defer w.buffers.Put(buf)
	for n != 0 {
		p := buf[:]
		if n > 0 {
			p = p[:min(n, copyBuffer)]
		}
		got, readErr := src.Read(p)
		if got > 0 {
			n -= int64(got)
			if _, err := w.Write(p[:got]); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readError(readErr)
		}
		if n != 0 {
			w.flushBeginning()
		}
	}
	return nil
}

// buffered is more than net/http keeps before it sends a header and what comes after that.
const buffered = 8 << 10

// flushBeginning has a client whose answer begins slowly see its header, whose time is over
// with the first byte: clients give up without one.
func (w *response) flushBeginning() {
	if !w.flushed && w.sent < buffered {
		w.control.Flush() //nolint:errcheck // see extendTime; the next write tells
	}
	w.flushed = true
}

// copyToEnd sends n bytes of a stream that ends with them. The last byte waits
// for that end: a source that checks digests says there whether they are right,
// and an answer that is complete by its Content-Length could not be called back.
func (w *response) copyToEnd(src io.Reader, n int64) error {
	if n == 0 {
		return nil
	}
	if err := w.copy(src, n-1); err != nil {
		return err
	}
	end, err := io.ReadAll(io.LimitReader(src, 2))
	switch {
	case err != nil:
		return readError(err)
	case len(end) == 0:
		return readError(io.ErrUnexpectedEOF)
	case len(end) > 1:
		return errors.New("the content is longer than its size")
	}
	_, err = w.Write(end)
	return err
}

// readError classifies what reading a content failed with. An early end is Corrupt:
// the Source has tried all it can before it gives less than it said.
func readError(err error) error {
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e
	}
	return &oci.Error{Class: oci.Corrupt, Message: "the content was cut short: pull again", Err: err}
}

// buffer takes one out of buffers. It must be put back.
func (w *response) buffer() *[copyBuffer]byte {
	if buf, ok := w.buffers.Get().(*[copyBuffer]byte); ok {
		return buf
	}
	return new([copyBuffer]byte)
}

// clientLeft notes that nothing more can be sent, since writing failed with err.
func (w *response) clientLeft(err error) error {
	message := "the client stopped taking the answer"
	if w.isCut.Load() {
		message = "the client took the answer too slowly while others waited for the memory that it was in"
	}
	w.err = &oci.Error{Class: oci.ClientGone, Message: message, Err: errors.Join(errLeft, err)}
	return w.err
}

// finish ends the answer: one without a body has not sent its header yet. It fails
// if less was written than Content-Length promised; net/http would let that pass.
func (w *response) finish() error {
	if w.err != nil {
		return w.err
	}
	if w.isCut.Load() { // just now: what is still in a buffer cannot leave
		return w.clientLeft(os.ErrDeadlineExceeded)
	}
	promised, err := strconv.ParseInt(w.under.Header().Get("Content-Length"), 10, 64)
	if err == nil && w.sent < promised && !w.noBody {
		return &oci.Error{Class: oci.Corrupt, Message: "the content ended before its size was reached: pull again"}
	}
	return w.start()
}
