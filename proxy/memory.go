package proxy

import (
	"context"
	"sync"

	"berth/internal/limit"
)

// untaken is the largest answer that needs no share of memory: a blob that is copied takes
// as much.
const untaken = copyBuffer

// memory is what a request has of the node's memory for manifests and lists. It is taken
// when something is to be read into it, so that what lies in memory already needs none. It
// is an oci.Memory.
type memory struct {
	pool *limit.Pool
	want limit.Want

	slot limit.SharedSlot

	mu    sync.Mutex
	state memoryState
}

type memoryState uint8

const (
	memoryNone memoryState = iota
	memoryTaken
	memoryOver
)

// Need waits until there is room for a manifest, once.
func (m *memory) Need(ctx context.Context, before func() error) error {
	w := m.want
	w.Before = before
	return m.take(ctx, w)
}

// Keep has it last although the request is over.
func (m *memory) Keep() (release func(), ok bool) { return m.slot.Keep() }

func (m *memory) take(ctx context.Context, w limit.Want) error {
	m.mu.Lock()
	if m.state != memoryNone {
		m.mu.Unlock()
		return nil
	}
	m.state = memoryTaken
	m.mu.Unlock()
	slot, err := m.pool.Take(ctx, w)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil && m.state == memoryTaken:
		m.state = memoryNone
	case err != nil:
	case m.state != memoryTaken: // the request is over meanwhile
		slot.Release()
	default:
		m.slot.Take(slot)
	}
	return err
}

// keeps has the answer, of n bytes, count while its client takes it. Where another
// organisation waits for memory and has less, a client that takes its time is cut off.
func (m *memory) keeps(ctx context.Context, n int64, w *response) (over func(), err error) {
	if n <= untaken {
		m.release(memoryNone)
		return func() {}, nil
	}
	want := m.want
	want.N = n
	if err := m.take(ctx, want); err != nil {
		return nil, err
	}
	m.slot.Shrink(n)
	return m.slot.Lasts(w.cut), nil
}

// release gives back what there is.
func (m *memory) release(then memoryState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == memoryTaken {
		m.slot.Release()
	}
	m.state = then
}
