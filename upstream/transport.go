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

// transports are the two ways to an origin. Requests and short answers share
// HTTP/2 connections: Quay, for one, lets ten times as many requests through
// there. The bytes of blobs come over HTTP/1.1: parallel ranges on one HTTP/2
// connection share its one TCP window and gain nothing.
type transports struct {
	meta, blob *http.Transport
}

func newTransports(d *dialer, cas *x509.CertPool, proxy *url.URL, connections int) transports {
	secure := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            cas,
		ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}
	return transports{
		meta: newTransport(d, secure, proxy, connections, true),
		blob: newTransport(d, secure, proxy, connections, false),
	}
}

func newTransport(d *dialer, secure *tls.Config, proxy *url.URL, connections int, http2 bool) *http.Transport {
	t := &http.Transport{
		DialContext:            d.DialContext,
		TLSClientConfig:        secure.Clone(), // the transport adds to it which protocols it speaks
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // digests are over the bytes as they are stored
		MaxConnsPerHost:        connections,
		MaxIdleConnsPerHost:    connections,
		MaxIdleConns:           4 * connections, // redirect targets are other hosts
		IdleConnTimeout:        idleTimeout,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(http2)
	if proxy != nil { // nil must stay nil: nothing comes from the environment
		t.Proxy = http.ProxyURL(proxy)
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

func (t transports) close() {
	t.meta.CloseIdleConnections()
	t.blob.CloseIdleConnections()
}
