package fleet

import (
	"slices"
	"sync"
	"time"

	"berth/fleet/seal"
)

// idleFor is how long memory for parts is kept that nobody uses.
const idleFor = time.Second

// partMemory is memory for parts. It is used again and again: a page that comes fresh from
// the system costs more CPU than the cipher does. There is never more than was in use at
// once, which a sync.Pool does not promise: what one processor has put there, another one
// may not find.
type partMemory struct {
	mu   sync.Mutex
	free [][]byte
	used int
	idle *time.Timer // drops what is free
}

// get gives size bytes, with whatever is in them, until release. With again false nobody
// else is given them.
func (m *partMemory) get(size int64) (_ []byte, release func(again bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used++
	var b []byte
	fits := slices.IndexFunc(m.free, func(f []byte) bool { return int64(len(f)) >= size })
	if fits >= 0 {
		b = m.free[fits]
	} else if b = make([]byte, seal.SmallPart+seal.Overhead); size > int64(len(b)) {
		b = make([]byte, seal.BigPart+seal.Overhead)
	}
	if len(m.free) > 0 { // the one that is used, or a small one that makes way for a large one
		m.free = slices.Delete(m.free, max(fits, 0), max(fits, 0)+1)
	}
	var once sync.Once // memory that is given back twice would be two parts'
	return b[:size], func(again bool) { once.Do(func() { m.put(b, again) }) }
}

func (m *partMemory) put(b []byte, again bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used--
	if again {
		m.free = append(m.free, b)
	}
	switch {
	case m.used > 0:
	case m.idle == nil:
		m.idle = time.AfterFunc(idleFor, m.drop)
	default:
		m.idle.Reset(idleFor)
	}
}

// drop leaves what is free to the garbage, if nothing is in use.
func (m *partMemory) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used == 0 {
		m.free = nil
	}
}
