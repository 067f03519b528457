// Package audit writes which images were given to whom, and which were not: one JSON
// line for each decision, in a stream of its own.
//
// A line is written before its answer leaves, so that no image leaves without one. It
// waits for the disk, other than the log, but for a second at most: where lines cannot
// be written pulls go on, and what is lost is counted.
package audit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/pause"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// patience is how long a request waits for its line.
	patience = time.Second
	// maxWaiting is how many bytes of lines may wait: some thousands, while a disk hangs.
	maxWaiting = 1 << 20
)

// Options are what a Log is made of.
type Options struct {
	// Registerer gets the metric. If nil, it is counted for nobody to see.
	Registerer prometheus.Registerer
	// Logger is told when lines cannot be written, and when they can again. If nil,
	// nobody is.
	Logger *slog.Logger
	// Stdout is where "-" leads. Required for that.
	Stdout io.Writer
}

// Log is the audit. Until Use names a file it is off. Safe for concurrent use.
//
// One goroutine does everything that a disk or a reader may hold up: it opens, writes
// and closes. The others hand it lines and wait, with a limit.
type Log struct {
	log  *slog.Logger
	lost prometheus.Counter
	out  output        // of the goroutine's
	more chan struct{} // something waits
	stop func()
	done chan struct{} // closed when the goroutine has ended
	on   atomic.Bool

	mu      sync.Mutex
	waiting *batch
	shares  map[string]*share
	order   *order // the next file; nil: the one in use
	// late: somebody has waited for as long as anybody may, and still nothing goes on.
	late bool
}

// batch is lines that are written at once.
type batch struct {
	text    []byte
	written chan struct{} // closed when they are there, or lost
}

// order is a call of Use.
type order struct {
	file string
	err  chan error
}

// New starts a Log that is off. Close it.
func New(o Options) *Log {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	stop := make(chan struct{})
	l := &Log{
		log: o.Logger,
		lost: promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{
			Name: "berth_audit_errors_total",
			Help: "Lines of the audit that could not be written, or were too many of one caller. The pulls that they are about went on.",
		}),
		out:  output{stdout: o.Stdout},
		more: make(chan struct{}, 1),
		stop: sync.OnceFunc(func() { close(stop) }),
		done: make(chan struct{}),
	}
	l.waiting, l.shares = newBatch(), map[string]*share{}
	go l.run(stop)
	return l
}

func newBatch() *batch { return &batch{written: make(chan struct{})} }

// Use writes to file from now on: a path, "-" for standard output, empty for nowhere. The
// file in use is opened anew, so that one that was moved away is followed by a new one
// with its name. On an error the lines go where they went before, if that is the same
// file; else they are lost until it can be opened, which is tried again.
func (l *Log) Use(file string) error {
	o := &order{file: file, err: make(chan error, 1)}
	l.mu.Lock()
	if l.order != nil {
		l.order.err <- nil // o comes after it, and says what there is to say
	}
	l.order = o
	clear(l.shares) // of organisations that are gone, too
	l.on.Store(file != "")
	l.mu.Unlock()
	l.wake()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-o.err:
		return err
	case <-l.done:
		return nil // nothing is written any more
	case <-timer.C:
		return fmt.Errorf("opening %s takes longer than %v: the disk that it is on, or whoever reads it, hangs", file, patience)
	}
}

// On says whether Write does anything.
func (l *Log) On() bool { return l != nil && l.on.Load() }

// Write writes e, and returns when it is there; or soon after, when it cannot be
// written. That the client has left ends no waiting: one that only closed its half of
// the connection would get its answer before the line is there.
func (l *Log) Write(e *Entry) {
	if !l.On() {
		return
	}
	line, err := e.line()
	if err != nil {
		l.lost.Inc() // only a time before history cannot be encoded
		return
	}
	if !l.await(e) {
		return
	}
	b, wait := l.add(line)
	if !wait {
		return
	}
	if written, _ := pause.Until(context.Background(), b.written, patience); !written {
		l.tooLate(b)
	}
}

// add hands over a line. It says whether to wait for it: not where others have waited
// in vain.
func (l *Log) add(line []byte) (b *batch, wait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = l.waiting
	if len(b.text)+len(line) > maxWaiting {
		l.lost.Inc()
		return nil, false
	}
	b.text = append(b.text, line...)
	l.wake()
	return b, !l.late
}

func (l *Log) wake() {
	select {
	case l.more <- struct{}{}:
	default: // it is known
	}
}

// tooLate notes that b has waited too long.
func (l *Log) tooLate(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-b.written: // just now
		return
	default:
	}
	if !l.late {
		l.late = true
		l.log.Error("the audit takes no lines: pulls no longer wait for it until it does", "waited", patience.String())
	}
}

// Close writes what waits, if that can be done soon. Lines that come later are lost.
func (l *Log) Close() {
	l.on.Store(false)
	l.stop()
	_, _ = pause.Until(context.Background(), l.done, patience)
}

// run is the goroutine.
func (l *Log) run(stop <-chan struct{}) {
	defer close(l.done)
	for {
		select {
		case <-l.more:
			l.turn()
		case <-stop:
			l.turn()
			l.out.close()
			return
		}
	}
}

// turn does what was asked for so far. Lines that came before another file was named are
// for the one before, if there was one.
func (l *Log) turn() {
	l.mu.Lock()
	order, b := l.order, l.waiting
	l.order, l.waiting = nil, newBatch()
	l.mu.Unlock()
	if l.out.file != "" {
		l.write(b.text)
	}
	first := l.out.file == ""
	if order != nil {
		order.err <- l.out.use(order.file)
	}
	if first {
		l.write(b.text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = false
	close(b.written)
}

// write writes lines, and counts those that are lost.
func (l *Log) write(text []byte) {
	if len(text) == 0 {
		return
	}
	lost, err := l.out.write(text)
	l.lost.Add(float64(lost))
	switch was := l.out.failing; {
	case lost > 0 && !was:
		l.log.Error("lines of the audit cannot be written: pulls go on, and what is lost is counted", "file", l.out.file, "err", err)
	case lost == 0 && was:
		l.log.Info("lines of the audit are written again", "file", l.out.file)
	}
	l.out.failing = lost > 0
}
