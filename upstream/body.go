package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"berth/internal/limit"
)

// stallLimit is how long a body may give no byte at all. There is no limit on
// the whole: a large blob over a thin line takes hours.
const stallLimit = 30 * time.Second

// smallStall is stallLimit for what is small: a manifest, or a piece that may be a
// whole blob of which nothing leaves before all of it is there. Its client waits
// for a header meanwhile.
const (
	smallStall = 8 * time.Second
	smallPiece = 4 << 20
)

// idleLimit is after how long without a Read the turn goes to somebody else: a client
// that takes its time (what passes by the disk goes at its pace) would have it for
// hours. The connection stays, and its bytes wait in the kernel.
const idleLimit = 500 * time.Millisecond

// body is the body of an answer. It ends the request when it is closed, and
// never ends cleanly before everything that was promised is there.
type body struct {
	from io.ReadCloser
	// end ends the request with a cause; ended is that cause, or nil.
	end   context.CancelCauseFunc
	ended func() error
	// fault turns what ended the request into what the caller is told.
	fault   func(error) error
	who     asker
	fetched fetching
	ticket  *limit.Ticket
	// ctx lasts as long as the request.
	ctx context.Context
	// resume waits until there is a turn again, after nobody had read for a while.
	resume func() error

	watch, idle *time.Timer
	once        sync.Once
	// left is how many bytes are still promised; -1: nothing was promised.
	left int64
	// stall is how long there may be no byte.
	stall time.Duration
}

// start makes b ready. One timer runs while Read waits, the other one between reads.
func (b *body) start() *body {
	b.left, b.stall = -1, stallLimit
	b.watch = time.AfterFunc(stallLimit, func() { b.end(errStall) })
	b.watch.Stop()
	b.idle = time.AfterFunc(idleLimit, b.ticket.Pause)
	return b
}

// promise says how many bytes must come; -1 takes that back.
func (b *body) promise(n int64) {
	if b.left = n; n >= 0 && n <= smallPiece {
		b.stall = smallStall
	}
}

// Read reads. The watchdog runs only while it waits for the registry, not
// while the caller does something else with what it got.
func (b *body) Read(p []byte) (int, error) {
	b.idle.Stop()
	if err := b.resume(); err != nil {
		return 0, b.fault(err)
	}
	b.watch.Reset(b.stall)
	n, err := b.from.Read(p[:b.ticket.Most(len(p))])
	b.watch.Stop()
	b.idle.Reset(idleLimit) // whose own bandwidth makes it wait has no turn meanwhile either
	if late := b.ticket.Read(b.ctx, n); late != nil && err == nil {
		err = late
	}
	b.idle.Reset(idleLimit)
	b.fetched.add(n)
	if b.left >= 0 {
		if int64(n) > b.left {
			return int(b.left), b.who.corrupt("sent more bytes than it had announced; try again")
		}
		b.left -= int64(n)
	}
	if err == nil || errors.Is(err, io.EOF) && b.left <= 0 {
		return n, err
	}
	switch cause := b.ended(); {
	case cause == nil && errors.Is(err, errStall):
		return n, b.fault(err)
	case cause == nil:
		return n, b.broken(err)
	case errors.Is(cause, os.ErrClosed):
		return n, fmt.Errorf("reading a body: %w", os.ErrClosed)
	default:
		return n, b.fault(cause)
	}
}

// broken is a body that was cut short.
func (b *body) broken(err error) error {
	e := b.who.nonsense("broke off in the middle of a body; try again")
	e.Err = fmt.Errorf("%w: %w", errUnusable, unquoted(err))
	if errors.Is(err, io.EOF) {
		e.Err = fmt.Errorf("%w: %w: %d bytes are missing", errUnusable, io.ErrUnexpectedEOF, b.left)
	}
	return e
}

// Close ends the request, wherever it is. It may be called at any time and
// more than once.
func (b *body) Close() error {
	var err error
	b.once.Do(func() {
		b.watch.Stop()
		b.idle.Stop()
		b.end(os.ErrClosed)
		err = b.from.Close()
		b.ticket.Close()
	})
	return err
}
