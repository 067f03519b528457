package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"berth/oci"
)

const (
	// maxPiece is what is handed to the kernel at once. The write deadline is
	// extended between pieces.
	maxPiece = 8 << 20
	// leastProgress in each StallTimeout is what a client must take: about
	// 2 KiB/s, far below any link that images are pulled over, far above a client
	// that keeps a connection busy for its own sake.
	leastProgress = 64 << 10
)

// sendFile sends n bytes of a body that lie in a file with sendfile(2), which
// net/http uses for an *io.LimitedReader over an *os.File. Where the body ends
// before, finish finds the answer shorter than its Content-Length.
func (w *response) sendFile(body oci.Piecer, n int64) error {
	for n > 0 {
		limit := min(n, maxPiece)
		r, err := body.Piece(limit)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return readError(err)
		}
		piece, ok := r.(*io.LimitedReader)
		if !ok {
			piece = &io.LimitedReader{R: r, N: limit}
		}
		left, sent := piece.N, w.sent
		err = w.sendPiece(piece)
		body.Moved(left - piece.N)
		sent = w.sent - sent
		n -= sent
		if err == nil && sent == 0 {
			err = readError(io.ErrUnexpectedEOF) // the file is shorter than its Content said
		}
		if err != nil {
			return err
		}
		if n > 0 {
			w.flushBeginning()
		}
	}
	return nil
}

// sendPiece sends one piece. A whole one may need longer than the write deadline, so
// it goes on after that if the client took enough by then. Going on is safe only
// where as much left as was read: sendfile keeps the two equal, a copy does not.
func (w *response) sendPiece(piece *io.LimitedReader) error {
	to, ok := w.under.(io.ReaderFrom)
	if _, isFile := piece.R.(*os.File); !ok || !isFile {
		return w.copy(piece, -1)
	}
	if err := w.start(); err != nil {
		return err
	}
	for {
		w.extendTime(time.Now())
		before := piece.N
		n, err := to.ReadFrom(piece)
		w.sent += n
		switch {
		case err == nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && n >= leastProgress && before-piece.N == n:
			continue
		case isGone(err):
			return w.clientLeft(err)
		}
		return &oci.Error{Class: oci.Disk, Message: "this node's disk failed while the content was sent: pull again", Err: err}
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
