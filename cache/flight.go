package cache

import (
	"context"
	"maps"
	"sync"
)

// flights runs one call at a time for each key, for all who want its answer.
//
// x/sync's singleflight does the same, but for strings as keys, untyped answers,
// and goroutines that nobody can wait for.
type flights[T any] struct {
	mu    sync.Mutex
	calls map[questionKey]*call[T]
}

type call[T any] struct {
	done   chan struct{}
	answer *T
	err    error
}

// do waits for the call of k, and starts it if there is none. The call belongs
// to none of its waiters: each waits as long as its own ctx allows, and the
// call goes on for the others, at most askTimeout.
func (f *flights[T]) do(ctx context.Context, c *Cache, k questionKey, fn func(context.Context) (*T, error)) (*T, error) {
	call := f.start(c, k, fn)
	select {
	case <-call.done:
		return call.answer, call.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (f *flights[T]) start(c *Cache, k questionKey, fn func(context.Context) (*T, error)) *call[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if running, ok := f.calls[k]; ok {
		return running
	}
	if f.calls == nil {
		f.calls = map[questionKey]*call[T]{}
	}
	started := &call[T]{done: make(chan struct{})}
	f.calls[k] = started
	c.wg.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
		defer cancel()
		started.answer, started.err = fn(ctx)
		f.mu.Lock()
		if f.calls[k] == started {
			delete(f.calls, k)
		}
		f.mu.Unlock()
		close(started.done)
	})
	return started
}

// forget keeps the calls that gone selects from those who come later: they start
// anew. Who waits goes on waiting.
func (f *flights[T]) forget(gone func(questionKey) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.calls, func(k questionKey, _ *call[T]) bool { return gone(k) })
}
