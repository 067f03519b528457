package ocitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// MemoryNet is a network in memory, for tests inside testing/synctest, where
// sockets would keep the clock from moving. Connections are net.Pipes: nothing
// is buffered between the two ends.
type MemoryNet struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
}

// NewMemoryNet is a network without listeners.
func NewMemoryNet() *MemoryNet { return &MemoryNet{listeners: map[string]*memoryListener{}} }

// Listen opens a new address that looks like a port of 127.0.0.1.
func (m *MemoryNet) Listen() net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &memoryListener{
		addr:  memoryAddr(fmt.Sprintf("127.0.0.1:%d", 10_000+len(m.listeners))),
		conns: make(chan net.Conn), closed: make(chan struct{}),
	}
	m.listeners[l.addr.String()] = l
	return l
}

// DialContext connects to an address of this network: it fits http.Transport.
func (m *MemoryNet) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	m.mu.Lock()
	l, ok := m.listeners[addr]
	m.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: network, Addr: memoryAddr(addr), Err: errRefused}
	if !ok {
		return nil, refused
	}
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

var errRefused = errors.New("connection refused")

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }

type memoryListener struct {
	addr   memoryAddr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }
