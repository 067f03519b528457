// Package flight runs a call once for everyone who wants its result at the same
// time.
//
// x/sync's singleflight does the same, but for strings as keys, untyped results,
// waiters that cannot leave, and goroutines that nobody can wait for.
package flight

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"berth/internal/span"
)

// ErrClosed is the error of a call that was asked for after Close.
var ErrClosed = errors.New("it is closed: nothing is asked any more")

// Group runs one call at a time for each key. A call belongs to nobody: whoever
// started it may leave, and the others still get its result. It has a limit of its
// own, and its context carries nothing of theirs but the span of the first. The zero Group has no limit.
type Group[K comparable, V any] struct {
	limit time.Duration

	mu      sync.Mutex // guards all below
	calls   map[K]*Call[V]
	running map[*Call[V]]struct{}
	closed  bool
	wg      sync.WaitGroup
}

// New makes a group whose calls are cancelled after limit; 0: they are not.
func New[K comparable, V any](limit time.Duration) *Group[K, V] { return &Group[K, V]{limit: limit} }

// Call is one that runs or has run.
type Call[V any] struct {
	done   chan struct{} // closed when value and err are there
	cancel context.CancelFunc
	value  V
	err    error
}

// Wait waits for the call's end, or for ctx.
func (c *Call[V]) Wait(ctx context.Context) (V, error) {
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var none V
		return none, context.Cause(ctx)
	}
}

// Done gives the call's end, and over is false where it still runs.
func (c *Call[V]) Done() (value V, err error, over bool) { //nolint:revive // the error is the call's, not how the look went
	select {
	case <-c.done:
		return c.value, c.err, true
	default:
		return value, nil, false
	}
}

// Failed is a call that has ended with err.
func Failed[V any](err error) *Call[V] {
	c := &Call[V]{done: make(chan struct{}), err: err}
	close(c.done)
	return c
}

// Do waits for the call for key, starting it if there is none.
func (g *Group[K, V]) Do(ctx context.Context, key K, call func(context.Context) (V, error)) (V, error) {
	first := span.Of(ctx)
	c, _ := g.Start(key, func(ctx context.Context) (V, error) { return call(span.With(ctx, first)) })
	return c.Wait(ctx)
}

// Start gives the running call for key, or starts it.
func (g *Group[K, V]) Start(key K, call func(context.Context) (V, error)) (c *Call[V], started bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		return c, false
	}
	if g.closed {
		return Failed[V](ErrClosed), false
	}
	if g.calls == nil {
		g.calls, g.running = map[K]*Call[V]{}, map[*Call[V]]struct{}{}
	}
	c = &Call[V]{done: make(chan struct{})}
	ctx := context.Background()
	if g.limit > 0 {
		ctx, c.cancel = context.WithTimeout(ctx, g.limit)
	} else {
		ctx, c.cancel = context.WithCancel(ctx)
	}
	g.calls[key], g.running[c] = c, struct{}{}
	g.wg.Go(func() { g.run(ctx, key, c, call) })
	return c, true
}

func (g *Group[K, V]) run(ctx context.Context, key K, c *Call[V], call func(context.Context) (V, error)) {
	defer c.cancel()
	c.value, c.err = call(ctx)
	g.mu.Lock()
	if g.calls[key] == c {
		delete(g.calls, key)
	}
	delete(g.running, c)
	g.mu.Unlock()
	close(c.done)
}

// Forget keeps the running calls that match from those who come later: they start
// anew. Who waits goes on waiting.
func (g *Group[K, V]) Forget(match func(K) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.calls, func(k K, _ *Call[V]) bool { return match(k) })
}

// Close cancels the calls that run and waits for them; later ones are refused.
func (g *Group[K, V]) Close() {
	g.mu.Lock()
	g.closed = true
	for c := range g.running {
		c.cancel()
	}
	g.mu.Unlock()
	g.wg.Wait()
}
