package download

import (
	"sync"
	"time"
)

const (
	// copyBuffer is what is written at once of an answer that comes fast. It divides a
	// block.
	copyBuffer = 256 << 10
	// gatherFor is how long bytes wait for others to be written with. TLS gives 16 KiB
	// at once, and each write wakes the hash and the readers.
	gatherFor = 20 * time.Millisecond
)

// gatherer writes an answer in pieces that end at multiples of the buffer's size, so
// that no page of the file is written in two halves. What has waited for long enough is
// written by a timer, since the next bytes may be a long time coming.
type gatherer struct {
	write func([]byte) error
	buf   []byte
	timer *time.Timer // nil: it was never needed

	mu            sync.Mutex
	begun         bool // something was written: the first bytes never wait
	have, written int  // of buf
	limit         int  // of have: less than the buffer has, in the first one
	err           error
}

func newGatherer(buf []byte, pos int64, write func([]byte) error) *gatherer {
	return &gatherer{write: write, buf: buf, limit: int(copyBuffer - pos%copyBuffer)}
}

// room is where the next bytes go.
func (g *gatherer) room() []byte { return g.buf[g.have:g.limit] }

// took notes that n bytes were put into room, and writes what there is if nothing
// follows or the room is full. Its error may be that of an earlier write.
func (g *gatherer) took(n int, last bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	waited := g.have > g.written // and so the timer runs
	g.have += n
	switch {
	case last || g.have == g.limit:
		g.flush()
		g.have, g.written, g.limit = 0, 0, copyBuffer
	case waited || n == 0:
	case !g.begun:
		g.flush()
	case g.timer == nil:
		g.timer = time.AfterFunc(gatherFor, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.flush()
		})
	default:
		g.timer.Reset(gatherFor)
	}
	return g.err
}

// flush writes what waits. Caller holds mu.
func (g *gatherer) flush() {
	if g.err == nil && g.have > g.written {
		g.err = g.write(g.buf[g.written:g.have])
		g.begun, g.written = true, g.have
	}
}
