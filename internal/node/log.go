package node

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"berth/internal/config"
	"berth/internal/linewriter"
	"berth/internal/pause"
)

const (
	// maxLogBytes is how much of the log may wait to be written. At one line of
	// 300 bytes for each request it is some seconds of a busy node.
	maxLogBytes = 1 << 20
	// lingerFor is how long lines gather after some were written: a write for each
	// request would cost as much as the line.
	lingerFor = 10 * time.Millisecond
	// flushTimeout is how long the end of the process waits for the rest.
	flushTimeout = 2 * time.Second
)

// newLogger is a logger and its level, which can be changed at any time.
func newLogger(l config.Log, to *logBuffer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(levelOf(l))
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, o)), level
	}
	return slog.New(newTextHandler(to, o)), level
}

// takeStandardLog takes over what libraries write to the standard log: net/http
// tells there about registries that speak unasked.
func takeStandardLog(log *slog.Logger) {
	slog.SetLogLoggerLevel(slog.LevelWarn)
	slog.SetDefault(slog.New(librariesLog{log.Handler(), rate.NewLimiter(1, 10), new(atomic.Int64)}))
}

// librariesLog leaves out what foreign servers said: net/http quotes it. It has a line a
// second, or else a server could fill the log by sending what nobody asked for.
type librariesLog struct {
	slog.Handler

	share   *rate.Limiter
	leftOut *atomic.Int64
}

// Handle passes the rest of r on.
func (l librariesLog) Handle(ctx context.Context, r slog.Record) error {
	if !l.share.Allow() {
		l.leftOut.Add(1)
		return nil
	}
	r.Message, _, _ = strings.Cut(r.Message, `"`)
	r.Message = strings.TrimSuffix(strings.TrimSpace(r.Message), " starting with")
	if n := l.leftOut.Swap(0); n > 0 {
		r.AddAttrs(slog.Int64("lines", n))
	}
	return l.Handler.Handle(ctx, r)
}

func levelOf(l config.Log) slog.Level {
	return map[config.Level]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[l.Level]
}

// logBuffer is a writer that never waits and never fails: whoever reads the log may
// stall (a full pipe, a stopped journald) or be gone, and pulls must go on. Another
// goroutine writes what came together; lines that find no room are dropped, and
// counted with those that could not be written.
type logBuffer struct {
	to      linewriter.Writer // only run uses it
	dropped atomic.Uint64
	more    chan struct{} // something waits
	stop    func()
	done    chan struct{} // closed when everything was written

	mu      sync.Mutex
	waiting []byte
	spare   []byte // the buffer that was written last
}

// newLogBuffer starts a buffer in front of to. Close it.
func newLogBuffer(to io.Writer) *logBuffer {
	stop := make(chan struct{})
	b := &logBuffer{to: linewriter.Writer{To: to}, more: make(chan struct{}, 1), stop: sync.OnceFunc(func() { close(stop) }), done: make(chan struct{})}
	go b.run(stop)
	return b
}

// Write takes one line. It never fails.
func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting)+len(line) > maxLogBytes {
		b.dropped.Add(1)
		return len(line), nil
	}
	b.waiting = append(b.waiting, line...)
	select {
	case b.more <- struct{}{}:
	default: // it is known
	}
	return len(line), nil
}

// close writes what is left, if that can be done soon. Lines that come later are
// lost.
func (b *logBuffer) close() {
	b.stop()
	_, _ = pause.Until(context.Background(), b.done, flushTimeout)
}

func (b *logBuffer) run(stop <-chan struct{}) {
	defer close(b.done)
	for {
		select {
		case <-b.more:
			b.flush()
			timer := time.NewTimer(lingerFor) // lines gather
			select {
			case <-timer.C:
			case <-stop:
				timer.Stop()
			}
		case <-stop:
			b.flush()
			return
		}
	}
}

// flush writes what waits. There is nowhere to say that the log cannot be written;
// what is lost is counted, and the next lines are tried again: a pipe may get
// another reader, and a full disk room.
func (b *logBuffer) flush() {
	b.mu.Lock()
	text := b.waiting
	b.waiting, b.spare = b.spare, nil
	b.mu.Unlock()
	lost, _ := b.to.Write(text)
	b.dropped.Add(uint64(lost))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare = text[:0]
}
