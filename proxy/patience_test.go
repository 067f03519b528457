package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: whoever asks is told at the time, unless it was stopped; and who
// asks after the end is told that it has come.
func TestPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		parent := context.WithValue(t.Context(), key{}, "kept")
		begin := func() *patience { return &patience{Context: parent, until: time.Now().Add(time.Second)} }

		p := begin()
		child, cancel := context.WithCancel(p)
		defer cancel()
		<-child.Done()
		if err := context.Cause(child); !errors.Is(err, errTooLate) || p.stop(time.Now()) {
			t.Errorf("at the time: %v", err)
		}
		p.end()

		p = begin()
		if p.Value(key{}) != "kept" || p.Err() != nil || !p.stop(time.Now()) {
			t.Error("it has ended before its time, or lost a value")
		}
		time.Sleep(2 * time.Second)
		if p.Err() != nil {
			t.Error("the clock went on after it was stopped")
		}
		p.end()
		if !errors.Is(p.Err(), context.Canceled) {
			t.Errorf("after the end: %v", p.Err())
		}

		p = begin()
		p.end()
		select {
		case <-p.Done():
		default:
			t.Error("who asks after the end is not told")
		}

		// Nobody asked, and the time is over all the same.
		p = begin()
		time.Sleep(time.Second)
		if p.stop(time.Now()) {
			t.Error("an answer after the time may leave")
		}
		if err := context.Cause(p); !errors.Is(err, errTooLate) {
			t.Errorf("who asks after the time is told %v", err)
		}
	})
}
