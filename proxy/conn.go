package proxy

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

const (
	// httpBuffer is net/http's before a connection: what is larger, with its
	// header, would leave in two writes or three.
	httpBuffer = 4 << 10
	// mostGathered leaves room for a header in the buffer that it is for.
	mostGathered = copyBuffer - 8<<10
)

// conn is a connection of a Listener. It has the methods of the one inside, so
// that net/http finds sendfile. Only the handler that has it writes to it.
type conn struct {
	*net.TCPConn

	all *Connections
	// active is how many requests are answered, and since when that is so, in
	// nanoseconds; or since when it was accepted.
	active atomic.Int32
	since  atomic.Int64
	trust  atomic.Int32 // a trust; it is set under all's lock

	gathered []byte // nil: what is written leaves at once
	// extended is when the write deadline was set last.
	extended time.Time
}

// Write sends p, or keeps it until release.
func (c *conn) Write(p []byte) (int, error) {
	if c.gathered == nil {
		return c.TCPConn.Write(p)
	}
	c.gathered = append(c.gathered, p...)
	return len(p), nil
}

// gather keeps what is written from now on in buf.
func (c *conn) gather(buf []byte) { c.gathered = buf[:0] }

// release sends what was gathered, if anything was.
func (c *conn) release() error {
	all := c.gathered
	c.gathered = nil
	if len(all) == 0 {
		return nil
	}
	_, err := c.TCPConn.Write(all)
	return err
}

type connKey struct{}

// withConn lets handlers find the connection; see http.Server.ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// writeWhole writes all of a body that is in memory, so that it leaves together
// with the header.
func (w *response) writeWhole(p []byte) (err error) {
	if w.conn == nil || len(p) < httpBuffer/2 || len(p) > mostGathered {
		_, err := w.Write(p)
		return err
	}
	buf := w.buffer()
	w.conn.gather(buf[:])
	defer func() { // also after a panic, or the answer to that would be gathered
		if sendErr := w.conn.release(); sendErr != nil && err == nil {
			err = w.clientLeft(sendErr)
		}
		w.buffers.Put(buf)
	}()
	if _, err := w.Write(p); err != nil {
		return err
	}
	if err := w.control.Flush(); err != nil {
		return w.clientLeft(err)
	}
	return nil
}
