package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"time"
)

const (
	tlsTimeout    = 5 * time.Second
	headerTimeout = 8 * time.Second
	idleTimeout   = 90 * time.Second
	maxHeader     = 64 << 10
	// A connection that lost its peer shows on a ping, and not only when the
	// next request on it has waited for its whole header timeout.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
)

// transportOptions are what all transports of a Registry have in common.
type transportOptions struct {
	dialer *dialer
	secure *tls.Config
	proxy  *url.URL
	http2  bool
	idle   int // connections to one host that are kept for later
	all    *Connections
}

func newSecure(cas *x509.CertPool, sessions *sessionsOf) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS12,
		RootCAs:          cas,
		VerifyConnection: boundChain,
		// One for all pools: a connection that takes the place of a dead one
		// resumes its session.
		ClientSessionCache: sessions,
	}
}

func newTransport(o transportOptions, http2 bool) *http.Transport {
	t := &http.Transport{
		TLSClientConfig:        o.secure.Clone(), // the transport adds to it which protocols it speaks
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,       // digests are over the bytes as they are stored
		MaxIdleConnsPerHost:    o.idle,     // those in use are as many as tickets
		MaxIdleConns:           4 * o.idle, // redirect targets are other hosts
		IdleConnTimeout:        idleTimeout,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(http2)
	if o.proxy != nil { // nil must stay nil: nothing comes from the environment
		t.Proxy = http.ProxyURL(o.proxy)
	}
	return t
}

// literals applies the address policy to requests that a proxy will dial for.
type literals struct {
	http.RoundTripper
	dialer *dialer
}

// RoundTrip refuses hosts that are addresses which the policy refuses.
func (l literals) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := l.dialer.literal(req.URL); err != nil {
		return nil, err
	}
	return l.RoundTripper.RoundTrip(req)
}
