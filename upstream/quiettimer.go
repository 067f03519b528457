package upstream

import (
	"sync"
	"time"
)

// quietSteps is into how many steps the time of a quietTimer is cut.
const quietSteps = 10

// quietTimer calls f, in a goroutine of its own, when time has passed in which this
// process could have noticed an answer. It waits in short steps, each of which begins
// when the end of the one before was noticed. Where the processors are taken, or the
// machine is suspended, an answer may have come and nobody has read it yet: the steps
// are late then as well, and their sum is longer. A single timer would be over at
// once, and would blame the connection.
type quietTimer struct {
	f func()

	mu    sync.Mutex
	timer *time.Timer
	step  time.Duration
	due   time.Time // when the present step ends
	left  int       // 0: it is over, or was stopped
}

// begin waits for d, from now on.
func (p *quietTimer) begin(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.left = d/quietSteps, quietSteps
	p.due = time.Now().Add(p.step)
	if p.timer == nil {
		p.timer = time.AfterFunc(p.step, p.tick)
		return
	}
	p.timer.Reset(p.step)
}

// stop waits no longer. f may be running. A nil timer has not begun.
func (p *quietTimer) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = 0
	if p.timer != nil {
		p.timer.Stop()
	}
}

func (p *quietTimer) tick() {
	p.mu.Lock()
	// The end of a step may wait for mu while begin starts all over: it is none of the
	// new steps.
	now := time.Now()
	if p.left == 0 || now.Before(p.due) {
		p.mu.Unlock()
		return
	}
	if p.left--; p.left > 0 {
		p.due = now.Add(p.step)
		p.timer.Reset(p.step)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.f()
}
