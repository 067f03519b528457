package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"berth/internal/config"
)

// listen opens every address of each listener, or none. Sockets of systemd are taken
// where one of them is meant. key is what an operator changes for another address.
func listen(ctx context.Context, all []config.Listener, key string, sockets *inheritedSockets) ([][]net.Listener, error) {
	open := make([][]net.Listener, len(all))
	for i := range all {
		var err error
		if open[i], err = bind(ctx, &all[i], key, sockets); err != nil {
			closeSockets(open)
			return nil, err
		}
	}
	return open, nil
}

func closeSockets(open [][]net.Listener) {
	for _, l := range slices.Concat(open...) {
		_ = l.Close() // it may be closed already, by its server
	}
}

// bind gives the sockets of one listener.
func bind(ctx context.Context, l *config.Listener, key string, sockets *inheritedSockets) ([]net.Listener, error) {
	if l.Address.Socket != "" {
		return sockets.named(l)
	}
	var open []net.Listener
	for i, at := range l.Address.Binds() {
		if s := sockets.at(at); s != nil {
			open = append(open, s)
			continue
		}
		s, err := new(net.ListenConfig).Listen(ctx, network(at), at.String())
		switch {
		case err == nil:
			open = append(open, s)
		case i > 0 && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
			// A node without IPv6 has no ::1.
		default:
			return open, cannotListen(l, at, key, err)
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

func cannotListen(l *config.Listener, at netip.AddrPort, key string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another program: stop it, or choose another address with %s (now %s)", at, key, l.Address)
	}
	return fmt.Errorf("listening on %s: %w: choose another address with %s", at, err, key)
}
