package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestHeaderDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		parent, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
		defer leave()
		begin := func() *headerDeadline {
			return &headerDeadline{Context: parent, at: time.Now().Add(time.Second)}
		}

		d := begin()
		child, cancel := context.WithCancel(d)
		defer cancel()
		<-child.Done()
		if err := context.Cause(child); !errors.Is(err, errTooLate) || d.stop(time.Now()) {
			t.Errorf("at the time: %v", err)
		}

		stopped := begin()
		if stopped.Value(key{}) != "kept" || stopped.Err() != nil || !stopped.stop(time.Now()) {
			t.Error("it has ended before its time, or lost a value")
		}
		unasked := begin() // nothing waits for it before it is stopped
		if !unasked.stop(time.Now()) {
			t.Error("an answer in time may not leave")
		}
		late := begin() // and not before its time is over either
		time.Sleep(2 * time.Second)
		if late.stop(time.Now()) {
			t.Error("an answer after the time may leave")
		}
		for name, d := range map[string]*headerDeadline{"stopped": stopped, "stopped before anything waited": unasked} {
			if d.Err() != nil {
				t.Errorf("%s: the clock went on", name)
			}
		}
		leave()
		for name, d := range map[string]*headerDeadline{"stopped": stopped, "stopped before anything waited": unasked, "not stopped": begin()} {
			if <-d.Done(); !errors.Is(d.Err(), context.Canceled) {
				t.Errorf("%s: the client has left, and it says %v", name, d.Err())
			}
		}
	})
}
