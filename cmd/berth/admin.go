package main

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"berth/internal/admin"
	"berth/internal/config"
)

// listenAdmin opens the operators' address. Without it pulls go on, so trouble
// is only logged.
func (n *node) listenAdmin(ctx context.Context, sockets *handed) []listening {
	address := n.cfg.Admin.Address
	if address.IsZero() {
		return nil
	}
	open, err := listen(ctx, []config.Listener{{Address: address}}, sockets)
	if err != nil {
		n.log.Error("there are no metrics: admin.address cannot be opened", "address", address.String(), "err", err)
	}
	return open
}

func (n *node) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{Registry: n.registry}))
	mux.Handle("GET /", admin.NewPage(admin.PageOptions{
		Status: n.status, History: n.history, Local: n.started.Admin.Address.Loopback(),
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // whoever asked is gone if this fails
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := n.pulse(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n") // likewise
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
}
