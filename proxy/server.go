package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	readHeaderTimeout = 10 * time.Second
	// readTimeout bounds a request with its body, which pulls don't have: a
	// client that announces one and never sends it would be waited for.
	readTimeout    = 30 * time.Second
	idleTimeout    = 3 * time.Minute
	maxHeaderBytes = 64 << 10
)

// Server is a server for handler with limits on everything a client may do
// before handler sees it. It speaks HTTP/1.1 only, also with TLS: parallel
// layers want connections of their own, and sendfile needs a bare one.
//
// Clients that are not told otherwise try TLS first, also on a plain port, and
// go on with HTTP at once if the reply looks like it. A ClientHello contains a
// line feed (the number of the supported_groups extension is 10), so net/http
// answers it with "HTTP/1.1 400" by itself, and logs nothing.
func Server(handler http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           attended(handler),
		ConnContext:       withConn,
		Protocols:         protocols,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(quiet{logger.Handler()}, slog.LevelWarn),
		// Otherwise "OPTIONS *" would be answered behind the handler's back.
		DisableGeneralOptionsHandler: true,
	}
}

// quiet moves what net/http complains about, and any client can cause, to Debug.
type quiet struct{ slog.Handler }

// Enabled asks by what the message may become.
func (q quiet) Enabled(context.Context, slog.Level) bool { return true }

// Handle passes r on, if it is wanted.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "http: TLS handshake error") {
		r.Level = slog.LevelDebug
	}
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// Live is a handler that can be exchanged while it serves: a request ends in
// the handler it began in. The zero Live answers 503.
type Live struct{ current atomic.Pointer[http.Handler] }

// Set makes h answer what comes from now on.
func (l *Live) Set(h http.Handler) { l.current.Store(&h) }

// ServeHTTP is the current handler's.
func (l *Live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := l.current.Load()
	if h == nil {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}
