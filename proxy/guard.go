package proxy

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"berth/oci"
)

// guard keeps web pages out. A browser on the node reaches localhost, and a
// page whose name resolves to 127.0.0.1 (DNS rebinding) even reads the answers.
// That takes a name, so names must be listed; registry clients send neither
// Origin nor Sec-Fetch-Site.
type guard struct {
	names  map[string]bool
	logger *slog.Logger

	mu      sync.Mutex
	silence time.Time // no warning until then
}

func newGuard(names []string, logger *slog.Logger) *guard {
	g := &guard{names: make(map[string]bool, len(names)), logger: logger}
	for _, name := range names {
		g.names[hostName(name)] = true
	}
	return g
}

// KeepPagesOut answers requests that a browser sends for a foreign page with 403,
// as on a listener whose names are not listed; next has all others. Links lead
// through: a page cannot read where it sends somebody.
func KeepPagesOut(next http.Handler, logger *slog.Logger) http.Handler {
	g := newGuard(nil, logger)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" {
			r = r.Clone(r.Context())
			r.Header.Del("Sec-Fetch-Site")
		}
		if err := g.check(r); err != nil {
			http.Error(w, oci.AsError(err).Message, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *guard) check(r *http.Request) error {
	if host := hostName(r.Host); !g.serves(host) {
		g.warn(host)
		return refused(fmt.Sprintf("host name %q is not served here: add it under names: of this listener", oci.OneLine(host, 255)))
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(origin, r.Host) {
		return refused("requests from web pages of other origins are not answered")
	}
	if strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "cross-site") {
		return refused("requests from web pages of other sites are not answered")
	}
	return nil
}

// serves says whether host is listed, or may be used without: addresses, an empty name
// (HTTP/1.0, which no browser speaks), and names under localhost, which never leave the
// machine (RFC 6761, section 6.3).
func (g *guard) serves(host string) bool {
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || g.names[host] {
		return true
	}
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil
}

// warn tells the operator how to allow host, at most once a minute.
func (g *guard) warn(host string) {
	g.mu.Lock()
	now := time.Now()
	quiet := now.Before(g.silence)
	if !quiet {
		g.silence = now.Add(time.Minute)
	}
	g.mu.Unlock()
	if !quiet {
		host = oci.OneLine(host, 255)
		g.logger.Warn("refused a host name that the listener does not list", "host", host, "add", fmt.Sprintf("names: [%s]", host))
	}
}

// hostName is host without port and final dot, in lower case.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func sameOrigin(origin, host string) bool {
	_, authority, ok := strings.Cut(origin, "://")
	return ok && strings.EqualFold(authority, host)
}

func refused(message string) error {
	return &oci.Error{Class: oci.Caller, Status: http.StatusForbidden, Code: oci.CodeDenied, Message: message}
}
