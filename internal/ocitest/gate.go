package ocitest

import (
	"context"
	"sync"
)

// Gate holds answers until the test lets them go on. One gate may hold many.
type Gate struct {
	mu      sync.Mutex
	changed *sync.Cond
	open    bool
	passes  int
	arrived int
}

// NewGate is a closed gate.
func NewGate() *Gate {
	g := &Gate{}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Open lets everything through, now and later.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	g.changed.Broadcast()
}

// Pass lets n of those that wait, or of the next ones, through.
func (g *Gate) Pass(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passes += n
	g.changed.Broadcast()
}

// Wait blocks until n answers in all have come to the gate, those that have
// left it included.
func (g *Gate) Wait(ctx context.Context, n int) error {
	return g.until(ctx, func() bool { return g.arrived >= n })
}

// enter blocks until the gate lets one through.
func (g *Gate) enter(ctx context.Context) error {
	g.mu.Lock()
	g.arrived++
	g.changed.Broadcast()
	g.mu.Unlock()
	return g.until(ctx, func() bool {
		if g.open {
			return true
		}
		if g.passes > 0 {
			g.passes--
			return true
		}
		return false
	})
}

func (g *Gate) until(ctx context.Context, ok func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.changed.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for !ok() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.changed.Wait()
	}
	return nil
}
