package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"berth/auth/caller"
	"berth/internal/admin"
	"berth/internal/config"
	"berth/proxy"
)

// listener is one listener of the configuration at the start. Its sockets stay as
// long as the process; what answers there changes with the configuration.
type listener struct {
	live proxy.Live
	// probePath is the path at which the node asks itself whether it answers.
	probePath string
	alive     func()
	// address is the configured one: a new configuration's settings for this
	// listener are those of the one in it with the same address, whatever the order.
	address config.Address
	open    []net.Listener
	sockets []net.Addr // their addresses
	// connections are those of all listeners.
	connections *proxy.Connections

	cert    *certificate // nil: plain HTTP
	started config.Listener
}

// ServeHTTP answers by the configuration in force.
func (f *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == f.probePath {
		f.alive()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	f.live.ServeHTTP(w, r)
}

// serve serves s on l, over TLS if there is a certificate.
func (f *listener) serve(s *http.Server, l net.Listener) error {
	if f.cert == nil {
		return plainly(s, l)
	}
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.cert.get}
	return s.ServeTLS(l, "", "")
}

// newListeners makes one for each listener that was configured at the start, with the
// sockets that are open for it.
func newListeners(cfg *config.Config, open [][]net.Listener, connections *proxy.Connections) ([]*listener, error) {
	var listeners []*listener
	probe := newProbePath()
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		f := &listener{address: l.Address, started: *l, probePath: probe, connections: connections}
		if l.TLS != nil {
			cert, err := newCertificate(*l.TLS)
			if err != nil {
				return nil, fmt.Errorf("listeners[%d].tls: %w", i, err)
			}
			f.cert = cert
		}
		f.open = open[i]
		for _, s := range f.open {
			f.sockets = append(f.sockets, s.Addr())
		}
		listeners = append(listeners, f)
	}
	return listeners, nil
}

// settings are cfg's for each of listeners. Where a listener is gone, which takes
// effect at the next start, they are what they were at this one.
func settings(listeners []*listener, cfg *config.Config) []config.Listener {
	all := make([]config.Listener, len(listeners))
	taken := make([]bool, len(cfg.Listeners)) // a free port, :0, may be there twice
	for i, f := range listeners {
		all[i] = f.started
		for j := range cfg.Listeners {
			if !taken[j] && cfg.Listeners[j].Address == f.address {
				all[i], taken[j] = cfg.Listeners[j], true
				break
			}
		}
	}
	return all
}

// mayServe checks l against the addresses of sockets that systemd handed over,
// which only show here.
func (f *listener) mayServe(l *config.Listener) error {
	if f.address.Socket == "" {
		return nil
	}
	for _, s := range f.sockets {
		at, ok := s.(*net.TCPAddr)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(at.IP)
		if !ok {
			continue
		}
		if err := l.MayBind(ip); err != nil {
			return fmt.Errorf("systemd's socket %q: %w", f.address.Socket, err)
		}
	}
	return nil
}

// unavailableTenant answers at an open listener whose organisation cannot be used: its
// callers are told to try again, not that they are somebody else.
type unavailableTenant string

// Identify lets nobody in.
func (o unavailableTenant) Identify(*http.Request) (caller.Caller, error) {
	return caller.Caller{}, caller.Broken(string(o))
}

// Listeners are the listeners as a node would open them.
func Listeners(cfg *config.Config) (all []admin.Listener) {
	for i := range cfg.Listeners {
		f := listener{address: cfg.Listeners[i].Address}
		for _, at := range f.address.Binds() {
			f.sockets = append(f.sockets, net.TCPAddrFromAddrPort(at))
		}
		l := f.status(&cfg.Listeners[i])
		l.TLS = cfg.Listeners[i].TLS != nil
		all = append(all, l)
	}
	return all
}
