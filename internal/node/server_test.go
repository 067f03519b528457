package node

import (
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"berth/internal/config"
	"berth/proxy"
)

// Nobody may hold a connection for ever, at any of the listeners: not before a request,
// in the middle of one, or after it.
func TestServers_EndConnections(t *testing.T) {
	t.Parallel()
	n := &node{registry: prometheus.NewRegistry(), started: &config.Config{}, setup: setup{log: slog.New(slog.DiscardHandler)}}
	for name, s := range map[string]*http.Server{
		"pulls":     proxy.Server(http.NotFoundHandler(), n.log),
		"operators": n.adminServer(proxy.NewConnections(1, 0, n.log)),
		"commands":  n.socketServer(),
	} {
		if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
			t.Errorf("%s: %v for a header, %v for a request, %v idle, %d bytes", name, s.ReadHeaderTimeout, s.ReadTimeout, s.IdleTimeout, s.MaxHeaderBytes)
		}
	}
}

// The cap leaves descriptors for what pulls open, whatever the limit.
func TestConnections_Most(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]int{0: 8192, 1: 8, 88: 8, 256: 64, 1024: 320, 65536: 8192, 1 << 20: 8192} {
		if got := mostConnections(limit); got != want {
			t.Errorf("%d descriptors: %d connections, want %d", limit, got, want)
		}
	}
}

// The unit lets berth open as many files as all connections need that it ever has.
func TestConnections_UnitFitsTheCap(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../../systemd/berth.service")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^LimitNOFILE=(\d+)$`).FindSubmatch(unit)
	if line == nil {
		t.Fatal("the unit has no limit")
	}
	limit, err := strconv.Atoi(string(line[1]))
	if err != nil || mostConnections(limit) != mostConnectionsEver || limit < perPull*mostConnectionsEver+ownDescriptors+adminConnections {
		t.Errorf("%s: %d connections, want %d: %v", line[0], mostConnections(limit), mostConnectionsEver, err)
	}
}
