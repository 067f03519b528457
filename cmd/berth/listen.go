package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"berth/internal/config"
)

// listening is one socket of one listener of the configuration.
type listening struct {
	net.Listener
	index int // of the listener in the configuration
}

// serve serves s here, over TLS if there is a certificate.
func (l listening) serve(s *http.Server, cert *certificate) error {
	if cert == nil {
		return s.Serve(l.Listener)
	}
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}
	return s.ServeTLS(l.Listener, "", "")
}

// listen opens every address, or none.
func listen(ctx context.Context, all []config.Listener) ([]listening, error) {
	sockets, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("taking systemd's sockets: %w", err)
	}
	var open []listening
	for i := range all {
		some, err := bind(ctx, &all[i], sockets)
		if err == nil && len(some) == 0 {
			err = fmt.Errorf("systemd handed over no socket named %q: set FileDescriptorName= in the socket unit", all[i].Address.Socket)
		}
		for _, l := range some {
			open = append(open, listening{Listener: l, index: i})
		}
		if err != nil {
			closeAll(open)
			return nil, err
		}
	}
	return open, nil
}

func closeAll(open []listening) {
	for _, l := range open {
		_ = l.Close() // it may be closed already, by its server
	}
}

// bind gives the sockets of one listener.
func bind(ctx context.Context, l *config.Listener, sockets map[string][]net.Listener) ([]net.Listener, error) {
	if name := l.Address.Socket; name != "" {
		return allowed(l, sockets[name])
	}
	var open []net.Listener
	for i, at := range l.Address.Binds() {
		s, err := new(net.ListenConfig).Listen(ctx, network(at), at.String())
		switch {
		case err == nil:
			open = append(open, s)
		case i > 0 && errors.Is(err, syscall.EADDRNOTAVAIL):
			// A node without IPv6 has no ::1.
		default:
			return open, cannotListen(l, at, err)
		}
		if i == 0 && at.Port() == 0 && len(l.Address.Binds()) > 1 {
			break // a free port here may be taken there
		}
	}
	return open, nil
}

// network keeps an IPv4 address to IPv4: Go's "tcp" opens 0.0.0.0 for both.
func network(at netip.AddrPort) string {
	if at.Addr().Is4() {
		return "tcp4"
	}
	return "tcp"
}

func cannotListen(l *config.Listener, at netip.AddrPort, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another program: stop it, or choose another address with --listen or listeners[].address (now %s)", at, l.Address)
	}
	return fmt.Errorf("listening on %s: %w: choose another address with --listen or listeners[].address", at, err)
}

// allowed checks sockets whose address only systemd's unit knows.
func allowed(l *config.Listener, sockets []net.Listener) ([]net.Listener, error) {
	for _, s := range sockets {
		tcp, ok := s.Addr().(*net.TCPAddr)
		if !ok {
			continue
		}
		if err := l.MayBind(tcp.AddrPort().Addr()); err != nil {
			return nil, fmt.Errorf("systemd's socket %q: %w", l.Address.Socket, err)
		}
	}
	return sockets, nil
}
