package proxy

import (
	"context"
	"net"
	"syscall"
)

// httpBuffer is net/http's before a connection: what is larger, with its header,
// leaves in two writes, and wakes the client twice.
const httpBuffer = 4 << 10

type connKey struct{}

// withConn lets handlers find the connection; see http.Server.ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// tcpOf is the connection of a request, if it is a bare one of a Server's.
func tcpOf(ctx context.Context) *net.TCPConn {
	c, _ := ctx.Value(connKey{}).(*net.TCPConn)
	return c
}

// writeWhole writes all of a body that is in memory, so that it leaves together
// with the header.
func (w *writer) writeWhole(p []byte) error {
	if w.tcp == nil || len(p) < httpBuffer/2 {
		_, err := w.Write(p)
		return err
	}
	cork(w.tcp, 1)
	defer cork(w.tcp, 0)
	if _, err := w.Write(p); err != nil {
		return err
	}
	if err := w.control.Flush(); err != nil {
		return w.left(err)
	}
	return nil
}

// cork makes the kernel wait for more (1), or send what is there (0). A
// connection that is gone will say so when it is written to.
func cork(c *net.TCPConn, on int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, on) // two writes, then
	})
}
