package proxy

import (
	"context"
	"sync"
	"time"
)

// patience is the context of an exchange: it ends with the request, when cancel
// is called, or, until stop is, at a time.
//
// Most requests are answered from memory and never ask when it ends. So what it
// takes to end it (a timer, a place among the parent's children) is made when
// somebody first asks.
type patience struct {
	context.Context // the request's

	until time.Time

	mu      sync.Mutex
	waiting context.Context // nil: nobody asked yet
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	// stopped: the clock is of no more interest. late: it struck before.
	stopped, late bool
	over          bool
}

// inner makes what ends the context.
func (p *patience) inner() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting != nil {
		return p.waiting
	}
	p.waiting, p.cancel = context.WithCancelCause(p.Context)
	switch {
	case p.over:
		p.cancel(nil)
	case p.late:
		p.cancel(errTooLate)
	case !p.stopped:
		p.timer = time.AfterFunc(time.Until(p.until), p.strike)
	}
	return p.waiting
}

// strike is the end of the time.
func (p *patience) strike() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.late = true
		p.cancel(errTooLate)
	}
}

// stop ends the looking at the clock, now. It says false when the time is over: then
// everything that waited has been told, or is about to be.
func (p *patience) stop(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil && !p.stopped {
		p.late = !now.Before(p.until)
	}
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
	return !p.late
}

// end ends the context.
func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over, p.stopped = true, true
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.cancel != nil {
		p.cancel(nil)
	}
}

// Done is closed at the end.
func (p *patience) Done() <-chan struct{} { return p.inner().Done() }

// Err says whether it is over.
func (p *patience) Err() error { return p.inner().Err() }

// Deadline is none: the time is for the header only.
func (p *patience) Deadline() (time.Time, bool) { return p.Context.Deadline() }

// Value is the request's, and lets package context find what ends this one.
func (p *patience) Value(key any) any { return p.inner().Value(key) }
