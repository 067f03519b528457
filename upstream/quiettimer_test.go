package upstream

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The end of a quiet timer that nobody could notice in time is put off: it takes all of
// its steps, however late each is.
func TestQuietTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var over atomic.Bool
		p := quietTimer{f: func() { over.Store(true) }}
		p.begin(time.Second)
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if over.Load() {
			t.Error("it was over before its time")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if !over.Load() {
			t.Error("it is not over at its time")
		}

		over.Store(false)
		p.begin(time.Second)
		time.Sleep(550 * time.Millisecond) // between two steps
		p.begin(time.Second)
		time.Sleep(time.Second - 1)
		p.stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if over.Load() {
			t.Error("it was stopped")
		}

		// The process is stopped for a minute: the first step ends late, and the
		// others are still to come.
		p.begin(time.Second)
		p.mu.Lock()
		p.timer.Reset(time.Minute)
		p.mu.Unlock()
		time.Sleep(time.Minute + 9*time.Second/10 - 1)
		synctest.Wait()
		if over.Load() {
			t.Error("it was over as soon as the process went on")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !over.Load() {
			t.Error("it is not over after all steps")
		}
	})
}
