package node

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
)

// manager is whoever started this process and wants to hear how it is: systemd,
// by sd_notify(3). Without one nothing is said.
type manager struct {
	log *slog.Logger

	mu    sync.Mutex // guards all below, and keeps messages in order
	ended bool       // nothing is ready any more
}

// ready says that pulls are answered, and how things are in one line: after a
// start, and after each reload.
func (m *manager) ready(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.say(daemon.SdNotifyReady, "STATUS="+status)
	}
}

// reloading is followed by ready. The time tells systemd which reload is meant.
func (m *manager) reloading() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.say(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS=Reading the configuration again")
	}
}

// stopping says that running answers are being finished.
func (m *manager) stopping() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.say(daemon.SdNotifyStopping, "STATUS=Finishing running pulls, for at most "+drainFor.String())
}

// alive keeps the watchdog from ending this process.
func (m *manager) alive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.say(daemon.SdNotifyWatchdog)
}

// say sends one message. Caller holds mu.
func (m *manager) say(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager cannot be told how things are", "err", err)
	}
}
