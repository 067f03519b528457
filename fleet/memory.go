package fleet

import (
	"sync"

	"berth/fleet/seal"
)

// partMemory is memory for parts of both sizes. It is used again and again: a page that
// comes fresh from the system costs more CPU than the cipher does. What is idle goes with
// the garbage.
type partMemory struct{ small, big sync.Pool } // of *[]byte

// get gives size bytes, with whatever is in them, until release.
func (m *partMemory) get(size int64) (b []byte, release func()) {
	pool, length := &m.small, int64(seal.SmallPart+seal.Overhead)
	if size > length {
		pool, length = &m.big, seal.BigPart+seal.Overhead
	}
	whole, ok := pool.Get().(*[]byte)
	if !ok {
		fresh := make([]byte, length)
		whole = &fresh
	}
	// Once: memory that is given back twice would be two parts'.
	return (*whole)[:size], sync.OnceFunc(func() { pool.Put(whole) })
}
