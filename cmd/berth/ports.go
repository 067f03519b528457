package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/node"
	clientsetup "berth/internal/setup"
)

// ports are the listeners in force: those of the running node, which also knows
// what systemd handed over and what flags say, else those of the configuration.
func (a *nodeFlags) ports(ctx context.Context, o *options, cfg *config.Config) ([]clientsetup.Listener, error) {
	shown, err := a.running(ctx, o)
	if err != nil {
		return nil, err
	}
	if shown == nil {
		shown = node.Listeners(cfg)
	}
	var all []clientsetup.Listener
	for _, l := range shown {
		if p, ok := port(l); ok {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the addresses of the listeners are not known here: start the node, and run this as root or as its user")
	}
	return all, nil
}

// running is nil where there is no node to ask, unless its socket was named.
func (a *nodeFlags) running(ctx context.Context, o *options) ([]admin.Listener, error) {
	client, err := a.client(o)
	if err != nil {
		return nil, nil // without a socket the configuration says it
	}
	defer client.Close()
	s, err := client.Status(ctx)
	if err == nil {
		return s.Listeners, nil
	}
	if a.socket == "" && (errors.Is(err, admin.ErrNotRunning) || errors.Is(err, admin.ErrNotPermitted)) {
		return nil, nil
	}
	return nil, err
}

// port is a listener as clients write it; false where no port is known.
func port(l admin.Listener) (clientsetup.Listener, bool) {
	p := clientsetup.Listener{
		Loopback: true, TLS: l.TLS, Token: l.Callers == string(config.CallersToken),
		Organisation: l.Organisation, Registry: l.Registry,
		NameNeedsOrganisation: l.OrganisationInName == string(config.InNameRequired),
	}
	number, host := "", ""
	for _, s := range l.Sockets {
		at, err := netip.ParseAddrPort(s)
		if err != nil || at.Port() == 0 {
			continue
		}
		p.Loopback = p.Loopback && at.Addr().IsLoopback()
		if host == "" {
			number, host = strconv.Itoa(int(at.Port())), at.Addr().String()
		}
		if at.Addr().IsUnspecified() {
			host = "localhost" // the one name that is good on this machine
		}
	}
	configured, _, err := net.SplitHostPort(l.Address)
	if err == nil && configured == "localhost" {
		host = configured
	}
	if len(l.Names) > 0 && (p.TLS || !p.Loopback) {
		host = l.Names[0]
	}
	p.Address = net.JoinHostPort(host, number)
	return p, number != ""
}
