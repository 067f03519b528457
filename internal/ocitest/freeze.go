package ocitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Freezer makes connections die as they do after a suspend, or when a NAT or a load
// balancer forgets them: no FIN, no RST, nothing comes any more, and what is written
// is lost. New connections work.
type Freezer struct {
	mu   sync.Mutex
	live map[*fragile]bool
}

// Dial is a DialContext whose connections can be frozen.
func (f *Freezer) Dial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &fragile{Conn: raw, of: f, closed: make(chan struct{})}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.live == nil {
			f.live = map[*fragile]bool{}
		}
		f.live[c] = true
		return c, nil
	}
}

// Freeze makes the connections that are open now silent, and says how many there
// were that it had not frozen before.
func (f *Freezer) Freeze() (frozen int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.live {
		if !c.frozen.Swap(true) {
			frozen++
		}
	}
	return frozen
}

// Open is how many connections are open, and how many of them are frozen.
func (f *Freezer) Open() (open, frozen int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.live {
		if c.frozen.Load() {
			frozen++
		}
	}
	return len(f.live), frozen
}

// fragile is a connection that can be frozen.
type fragile struct {
	net.Conn
	of     *Freezer
	frozen atomic.Bool
	once   sync.Once
	closed chan struct{}
}

// Read reads. What comes after the connection was frozen is lost, its end too.
func (c *fragile) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		switch {
		case !c.frozen.Load():
			return n, err
		case err != nil:
			<-c.closed
			return 0, net.ErrClosed
		}
	}
}

// Write writes, or loses what is written.
func (c *fragile) Write(p []byte) (int, error) {
	if c.frozen.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close closes the connection.
func (c *fragile) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		delete(c.of.live, c)
	})
	return c.Conn.Close()
}

// Forwarder is a TCP port of 127.0.0.1 that leads to another one over connections
// that can be frozen.
type Forwarder struct {
	Freezer

	listener net.Listener
	target   string
	all      sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	near     map[net.Conn]bool
}

// NewForwarder leads to target, a host and port, until the test ends.
func NewForwarder(t testing.TB, target string) *Forwarder {
	t.Helper()
	f, err := startForwarder(target)
	if err != nil {
		t.Fatalf("starting a forwarder: %v", err)
	}
	t.Cleanup(f.close)
	return f
}

func startForwarder(target string) (*Forwarder, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &Forwarder{listener: l, target: target, near: map[net.Conn]bool{}}
	f.all.Go(f.serve)
	return f, nil
}

// Addr is its host and port.
func (f *Forwarder) Addr() string { return f.listener.Addr().String() }

func (f *Forwarder) close() {
	f.mu.Lock()
	f.closed = true
	_ = f.listener.Close() // whatever it says, it does not listen any more
	for c := range f.near {
		_ = c.Close() // likewise
	}
	f.mu.Unlock()
	f.all.Wait()
}

func (f *Forwarder) serve() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		if f.closed {
			_ = c.Close() // nobody is there to hear about it
			f.mu.Unlock()
			return
		}
		f.near[c] = true
		f.all.Go(func() { f.forward(c) })
		f.mu.Unlock()
	}
}

// forward copies both ways until one of them ends.
func (f *Forwarder) forward(near net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var d net.Dialer
	far, err := f.Dial(d.DialContext)(ctx, "tcp", f.target)
	end := func() {
		_ = near.Close() // closing it twice is an error, and means nothing
		if far != nil {
			_ = far.Close() // likewise
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.near, near)
	}
	defer end()
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_ = copyAll(near, far) // its end is all that counts
		end()
	})
	_ = copyAll(far, near) // likewise
	end()
	back.Wait()
}

// copyAll copies without splice, which would go past what freezes.
func copyAll(to io.Writer, from io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("forwarding: %w", err)
	}
	return nil
}

// Freeze makes the connections to the registry's own servers silent that are open
// now: to some of them, or to all. It says how many there were. Options.Relay must
// be on.
func (r *Registry) Freeze(servers ...Server) (frozen int) {
	for s, f := range r.relays {
		if len(servers) == 0 || slices.Contains(servers, s) {
			frozen += f.Freeze()
		}
	}
	return frozen
}

// Open is how many connections to one of the registry's servers are open and not
// silent. Options.Relay must be on.
func (r *Registry) Open(s Server) int {
	open, frozen := r.relays[s].Open()
	return open - frozen
}
