package auth

import (
	"context"
	"errors"
	"sync"
	"time"
)

var errClosed = errors.New("the authority is closed")

// flights runs one call per key for everyone who asks while it runs. A call
// belongs to nobody: whoever started it may leave, and the others still get
// its result. It has a limit of its own, and its context carries nothing of
// theirs: neither a deadline nor a value.
type flights[K comparable, V any] struct {
	limit time.Duration

	mu      sync.Mutex // guards all below
	running map[K]*flight[V]
	closed  bool
	all     sync.WaitGroup
}

type flight[V any] struct {
	done   chan struct{} // closed when value and err are there
	cancel context.CancelFunc
	value  V
	err    error
}

// do waits for the call for key, or for ctx.
func (f *flights[K, V]) do(ctx context.Context, key K, call func(context.Context) (V, error)) (V, error) {
	fl := f.join(key, call)
	if fl == nil {
		var none V
		return none, errClosed
	}
	select {
	case <-fl.done:
		return fl.value, fl.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

func (f *flights[K, V]) join(key K, call func(context.Context) (V, error)) *flight[V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	if fl := f.running[key]; fl != nil {
		return fl
	}
	own, cancel := context.WithTimeout(context.Background(), f.limit)
	fl := &flight[V]{done: make(chan struct{}), cancel: cancel}
	if f.running == nil {
		f.running = make(map[K]*flight[V])
	}
	f.running[key] = fl
	f.all.Go(func() { f.run(own, key, fl, call) })
	return fl
}

func (f *flights[K, V]) run(ctx context.Context, key K, fl *flight[V], call func(context.Context) (V, error)) {
	defer fl.cancel()
	fl.value, fl.err = call(ctx)
	f.mu.Lock()
	delete(f.running, key)
	f.mu.Unlock()
	close(fl.done)
}

// close ends the calls that run and waits for them; later ones are refused.
func (f *flights[K, V]) close() {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.running {
		fl.cancel()
	}
	f.mu.Unlock()
	f.all.Wait()
}
