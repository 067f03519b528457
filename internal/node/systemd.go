package node

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"berth/internal/config"
)

// inheritedSockets are the sockets that systemd opened for this process and holds across
// its restarts: who connects meanwhile waits in their queues. A listener takes
// them by name (systemd:NAME), or because it has the address of one; so the
// socket unit needs no word in the configuration.
//
// Whoever wants one asks in turn, from one goroutine.
type inheritedSockets struct{ sockets []*inheritedSocket }

type inheritedSocket struct {
	net.Listener
	name  string
	taken bool
}

// inheritSockets takes what systemd handed over. It can be done once: the variables
// that tell are gone afterwards, so that no child takes them for its own.
func inheritSockets() (*inheritedSockets, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("taking systemd's sockets: %w", err)
	}
	h := &inheritedSockets{}
	for name, all := range named {
		for _, l := range all {
			h.sockets = append(h.sockets, &inheritedSocket{Listener: l, name: name})
		}
	}
	return h, nil
}

// named gives the sockets that a listener asks for by their name.
func (s *inheritedSockets) named(l *config.Listener) ([]net.Listener, error) {
	var found []net.Listener
	for _, s := range s.sockets {
		if s.name != l.Address.Socket || s.taken {
			continue
		}
		if at, ok := addressOf(s); ok {
			if err := l.MayBind(at.Addr()); err != nil {
				return nil, fmt.Errorf("systemd's socket %q: %w", s.name, err)
			}
		}
		s.taken = true
		found = append(found, s.Listener)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("systemd handed over no socket named %q: set FileDescriptorName= in the socket unit", l.Address.Socket)
	}
	return found, nil
}

// at gives the socket with this address; nil if there is none.
func (s *inheritedSockets) at(want netip.AddrPort) net.Listener {
	i := slices.IndexFunc(s.sockets, func(s *inheritedSocket) bool {
		at, ok := addressOf(s)
		return ok && at == want && !s.taken
	})
	if i < 0 {
		return nil
	}
	s.sockets[i].taken = true
	return s.sockets[i].Listener
}

// closeRest lets go of sockets that nobody asked for. Whoever connects to one
// waits in vain, which is worth a line in the log.
func (s *inheritedSockets) closeRest(log *slog.Logger) {
	for _, s := range s.sockets {
		if s.taken {
			continue
		}
		log.Warn("systemd holds a socket that no listener answers on: add one with its name (address: systemd:NAME), or take it out of the socket unit",
			"name", s.name, "address", s.Addr().String())
		_ = s.Close() // nothing was accepted
	}
}

func addressOf(l net.Listener) (netip.AddrPort, bool) {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
}

// serviceManager is whoever started this process and wants to hear how it is: systemd,
// by sd_notify(3). Without one nothing is said.
type serviceManager struct {
	log *slog.Logger

	mu    sync.Mutex // guards all below, and keeps messages in order
	ended bool       // nothing is ready any more
}

// ready says that pulls are answered, and how things are in one line: after a
// start, and after each reload.
func (m *serviceManager) ready(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.say(daemon.SdNotifyReady, "STATUS="+status)
	}
}

// reloading is followed by ready. The time tells systemd which reload is meant.
func (m *serviceManager) reloading() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.say(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS=Reading the configuration again")
	}
}

// stopping says that running answers are being finished.
func (m *serviceManager) stopping() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.say(daemon.SdNotifyStopping, "STATUS=Finishing running pulls, for at most "+drainFor.String())
}

// alive keeps the watchdog from ending this process.
func (m *serviceManager) alive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.say(daemon.SdNotifyWatchdog)
}

// say sends one message. Caller holds mu.
func (m *serviceManager) say(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager cannot be told how things are", "err", err)
	}
}
