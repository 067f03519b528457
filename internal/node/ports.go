package node

import (
	"net"

	"berth/internal/admin"
	"berth/internal/config"
)

// Listeners are the listeners as a node would open them.
func Listeners(cfg *config.Config) (all []admin.Listener) {
	for i := range cfg.Listeners {
		f := front{address: cfg.Listeners[i].Address}
		for _, at := range f.address.Binds() {
			f.sockets = append(f.sockets, net.TCPAddrFromAddrPort(at))
		}
		l := f.status(&cfg.Listeners[i])
		l.TLS = cfg.Listeners[i].TLS != nil
		all = append(all, l)
	}
	return all
}
