package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/proxy"
)

// listenAdmin opens the operators' address. Without it pulls go on, so trouble
// is only logged.
func (n *node) listenAdmin(ctx context.Context, sockets *inheritedSockets) []net.Listener {
	address := n.cfg.Admin.Address
	if address.IsZero() {
		return nil
	}
	// The address in the file was judged with the file; that of a socket of
	// systemd's shows only here.
	protected := n.cfg.Admin.WebConfigFile != ""
	open, err := listen(ctx, []config.Listener{{Address: address, AllowRemote: protected}}, "admin.address", sockets)
	if err != nil {
		n.log.Error("there are no metrics: admin.address cannot be opened", "address", address.String(), "err", err)
	}
	return slices.Concat(open...)
}

// shielded is s for the operators' address. Without a password a browser on the
// node must not be led there by a page: metrics name every organisation.
func (n *node) shielded(s *http.Server) *http.Server {
	if n.started.Admin.WebConfigFile == "" {
		s.Handler = proxy.KeepPagesOut(s.Handler, n.log)
	}
	return s
}

// adminServing is how the operators' address is served.
func (n *node) adminServing() serving {
	a := n.started.Admin
	if a.WebConfigFile == "" {
		return plainly
	}
	return webServer{file: a.WebConfigFile, token: a.TokenFile != "", log: n.log}.serve
}

// adminServer answers at the operators' address. What says only that the node is well
// takes no place: whoever watches it gets its answer however many read the rest.
func (n *node) adminServer(connections *proxy.Connections) *http.Server {
	a := &n.started.Admin
	closed, status := connections.LetIn, n.status
	switch {
	case a.TokenFile != "":
		b := &bearer{file: a.TokenFile, hung: n.hung, log: n.log}
		closed = func(next http.Handler) http.Handler { return b.only(connections.LetIn(next)) }
	case a.WebConfigFile == "":
		status = n.namelessStatus // anybody on the node reads it
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", closed(n.scrapes))
	mux.Handle("GET /", closed(admin.NewPage(admin.PageOptions{Status: status, History: n.history, Local: a.Address.Loopback()})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // whoever asked is gone if this fails
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := n.probe(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n") // likewise
	})
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 64 << 10, // Prometheus comes once a minute, or more often
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	connections.Attend(s)
	return s
}
