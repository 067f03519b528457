// Package gate keeps pulls from waiting for an engine of the fleet that is away.
package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstPause = time.Second
	lastPause  = time.Minute
	// probeTimeout bounds a probe. Nobody waits for one.
	probeTimeout = 5 * time.Second
)

// ErrAway says that an engine was not asked, since it failed a moment ago.
var ErrAway = errors.New("away: not asked, it has just failed")

// Gate is closed from a failure on until a probe says that the engine is back. A probe
// runs beside whoever finds the gate closed after its pause; nothing runs while nobody
// asks. So an engine that is away costs a pull one time limit, and later pulls nothing.
type Gate struct {
	probe func(context.Context) error
	m     *Metrics
	name  string

	mu      sync.Mutex
	away    error // why; nil: the gate is open
	pause   time.Duration
	next    time.Time // of the next probe
	probing bool
	closed  bool
	worked  time.Time          // when real work succeeded last
	stop    context.CancelFunc // of the probe that runs
	done    sync.WaitGroup
}

// New makes an open gate for the engine of that name. m may be nil. probe asks the
// engine for something small.
func New(engine string, m *Metrics, probe func(context.Context) error) *Gate {
	g := &Gate{probe: probe, m: m, name: engine}
	m.watch(engine, g)
	return g
}

// Enter returns ErrAway where the engine is not to be asked.
func (g *Gate) Enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away == nil {
		return nil
	}
	if !g.probing && !g.closed && !time.Now().Before(g.next) {
		g.startProbe()
	}
	return fmt.Errorf("%w: %w", ErrAway, g.away)
}

// startProbe runs one. Caller holds mu.
func (g *Gate) startProbe() {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	g.probing, g.stop = true, cancel
	g.done.Go(func() {
		err := g.probe(ctx)
		cancel()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.probing = false
		if err == nil {
			// The pause stays as long as it was until real work succeeds: an engine that
			// answers what is small, and fails at the rest, would close and open in turn.
			g.away = nil
			return
		}
		g.shut(err)
	})
}

// Worked notes that real work succeeded.
func (g *Gate) Worked() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pause, g.worked = 0, time.Now()
}

// Since is how long ago began was, or the last success of real work after it.
func (g *Gate) Since(began time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.worked.After(began) {
		began = g.worked
	}
	return time.Since(began)
}

// Failed notes that the engine could not do its work, and why.
func (g *Gate) Failed(err error) {
	g.m.failed(g.name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away == nil { // those that were under way when it closed say nothing new
		g.shut(err)
	}
}

// shut closes the gate, for twice as long as the last time. Caller holds mu.
func (g *Gate) shut(why error) {
	g.away = why
	g.pause = min(max(2*g.pause, firstPause), lastPause)
	// Nodes that lost an engine together do not ask it together.
	g.next = time.Now().Add(g.pause/2 + rand.N(g.pause/2+1))
}

// Away is why the gate is closed, or nil.
func (g *Gate) Away() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.away
}

// Close ends a probe that runs, and waits for it.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	if g.stop != nil {
		g.stop()
	}
	g.mu.Unlock()
	g.done.Wait()
	g.m.forget(g)
}
