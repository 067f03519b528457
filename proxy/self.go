package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dial connects to a listener of this process as a client does, but needs none of its
// places: so the node can ask itself whether it answers, whoever holds them. The
// listener knows it by the address that it comes from, which is bound, and noted,
// before anything leaves: the kernel gives it to nobody else meanwhile.
func (s *Connections) Dial(ctx context.Context, at net.Addr) (net.Conn, error) {
	to, ok := at.(*net.TCPAddr)
	if !ok {
		return new(net.Dialer).DialContext(ctx, at.Network(), at.String())
	}
	target := unmapped(to.AddrPort())
	if target.Addr().IsUnspecified() {
		target = netip.AddrPortFrom(loopback(target.Addr()), target.Port())
	}
	forget := func() {}
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		from, err := bindTo(raw, target.Addr())
		if err == nil {
			forget = s.note(from)
		}
		return err
	}}
	c, err := dialer.DialContext(ctx, "tcp", target.String())
	if err != nil {
		forget()
		return nil, err
	}
	return &ownConn{Conn: c, forget: sync.OnceFunc(forget)}, nil
}

func loopback(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// bindTo gives a socket an address of its own with a free port.
func bindTo(raw syscall.RawConn, a netip.Addr) (from netip.AddrPort, err error) {
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: a.As16()}
	if a.Is4() {
		address = &unix.SockaddrInet4{Addr: a.As4()}
	}
	controlErr := raw.Control(func(fd uintptr) {
		if err = unix.Bind(int(fd), address); err != nil {
			return
		}
		if address, err = unix.Getsockname(int(fd)); err != nil {
			return
		}
		switch at := address.(type) {
		case *unix.SockaddrInet4:
			from = netip.AddrPortFrom(a, uint16(at.Port))
		case *unix.SockaddrInet6:
			from = netip.AddrPortFrom(a, uint16(at.Port))
		}
	})
	return from, errors.Join(controlErr, err)
}

// ownConn is known to the listener until it is closed.
type ownConn struct {
	net.Conn

	forget func()
}

func (c *ownConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// isOwn says whether c comes from this node itself. Caller holds mu.
func (s *Connections) isOwn(c *conn) bool {
	if len(s.own) == 0 {
		return false
	}
	at, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	_, own := s.own[unmapped(at.AddrPort())]
	return own
}

func unmapped(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}

// note says which addresses are this node's own.
func (s *Connections) note(at netip.AddrPort) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[at] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.own, at)
	}
}
