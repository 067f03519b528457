package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"berth/internal/config"
)

// stuck is a writer that waits until it is freed.
type stuck struct {
	free    chan struct{}
	mu      sync.Mutex
	written bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written.Write(p)
}

func TestLogNeverWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{free: make(chan struct{})}
		b := newLogBuffer(to)
		line := []byte(strings.Repeat("x", 1023) + "\n")
		write := func(n int) {
			for range n {
				if m, err := b.Write(line); m != len(line) || err != nil {
					t.Fatal(m, err)
				}
			}
		}
		write(1)
		synctest.Wait() // it is being written, for ever
		write(maxLogBytes/len(line) + 7)
		if got := b.dropped.Load(); got != 7 {
			t.Errorf("%d lines were dropped, not 7", got)
		}
		begun := time.Now()
		b.close()
		if waited := time.Since(begun); waited != flushTimeout {
			t.Errorf("the end waited for %v", waited)
		}
		close(to.free)
		<-b.done
		if got, want := to.written.Len(), (1+maxLogBytes/len(line))*len(line); got != want {
			t.Errorf("%d bytes were written, not %d", got, want)
		}
	})
}

func TestLogIsWrittenInOrder(t *testing.T) {
	t.Parallel()
	to := &stuck{free: make(chan struct{})}
	close(to.free)
	b := newLogBuffer(to)
	logger, level := newLogger(config.Log{Level: "info", Format: "text"}, b)
	for i := range 5000 {
		logger.Info("line", "i", i)
		logger.Debug("not this one")
	}
	level.Set(levelOf(config.Log{Level: "error"}))
	logger.Info("nor this one")
	b.close()
	lines := strings.Split(strings.TrimSpace(to.written.String()), "\n")
	if len(lines) != 5000 || b.dropped.Load() != 0 {
		t.Fatalf("%d lines, %d dropped", len(lines), b.dropped.Load())
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, fmt.Sprint(" i=", i)) {
			t.Fatalf("line %d: %s", i, line)
		}
	}
}

// However many lines libraries write, the log has a few of them, and how many there were.
func TestLibrariesLog_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := librariesLog{slog.NewTextHandler(&out, nil), rate.NewLimiter(1, 10), new(atomic.Int64)}
		log := slog.New(l)
		for range 1000 {
			log.Warn("Transport: unhandled response frame")
		}
		if n := strings.Count(out.String(), "\n"); n != 10 {
			t.Errorf("%d lines of 1000", n)
		}
		time.Sleep(time.Second)
		log.Warn("Transport: unhandled response frame")
		if !strings.Contains(out.String(), "lines=990") {
			t.Errorf("it is not told how many were left out: %s", out.String())
		}
	})
}
