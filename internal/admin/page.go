package admin

import (
	"context"
	"embed"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

//go:embed page
var pageFiles embed.FS

// PageOptions are what the status page shows, and to whom.
type PageOptions struct {
	// Status is the node as it is now. Required.
	Status func(context.Context) (Status, error)
	// History is what the node did until now. If nil, there are no curves.
	History *History
	// Full shows images and messages too. It is for the socket: who reaches a TCP
	// port is anybody on the node.
	Full bool
	// Local refuses names that are not this machine's, which a web page could lead
	// here (DNS rebinding). It is for addresses that only this machine reaches.
	Local bool
}

// policy keeps everything out that is not the page's own: names in it come from
// organisations.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageTypes are the files that the page needs.
var pageTypes = map[string]string{
	"page.css": "text/css; charset=utf-8",
	"page.js":  "text/javascript; charset=utf-8",
	"page.svg": "image/svg+xml",
}

// NewPage answers / with the status as HTML, and with the files that it needs.
func NewPage(o PageOptions) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", o.status)
	for name, contentType := range pageTypes {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			text, err := pageFiles.ReadFile("page/" + name)
			if err != nil {
				http.Error(w, "there is no such file", http.StatusNotFound)
				return
			}
			w.Header().Set("Cache-Control", "no-cache") // it changes with the version
			sendPage(w, contentType, text)
		})
	}
	return o.kept(mux)
}

func (o PageOptions) status(w http.ResponseWriter, r *http.Request) {
	s, err := o.Status(r.Context())
	if err != nil {
		http.Error(w, "the node cannot say how it is", http.StatusInternalServerError)
		return
	}
	if !o.Full {
		s = s.public()
	}
	w.Header().Set("Cache-Control", "no-store")
	sendPage(w, "text/html; charset=utf-8", []byte(newView(&s, o.History, o.Full).html()))
}

func sendPage(w http.ResponseWriter, contentType string, text []byte) {
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(text) // whoever asked is gone if this fails
}

// kept sets the headers that keep the page to itself.
func (o PageOptions) kept(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "cross-site") && r.Header.Get("Sec-Fetch-Mode") != "navigate" || o.Local && !ofThisMachine(r.Host) {
			http.Error(w, "this page is for http://localhost and addresses of this machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ofThisMachine says whether host can only lead to where it was asked.
func ofThisMachine(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}
