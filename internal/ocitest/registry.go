package ocitest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/oci"
)

// Options say what kind of registry it is. The zero Options is an open one
// over plain HTTP that serves its blobs itself.
type Options struct {
	// TLS serves https with httptest's certificate; Registry.CertPool trusts it.
	TLS bool
	// HTTP2 offers h2 next to http/1.1. It needs TLS.
	HTTP2 bool

	// Auth is how callers prove who they are.
	Auth Auth
	// Refusal is how a caller without rights is turned away.
	Refusal Refusal
	// Private makes new repositories private; else they are public.
	Private bool
	// TokenServer puts the token endpoint on a server of its own.
	TokenServer bool
	// TokenTTL is how long tokens live. If zero, five minutes.
	TokenTTL time.Duration
	// TokenShape is which fields the token answer has.
	TokenShape TokenShape
	// BadPassword is the token endpoint's status for a wrong user name or
	// password. If zero, 401; GHCR says 403.
	BadPassword int
	// OAuth lets the token endpoint answer POST. Else it says 405, as
	// DigitalOcean does.
	OAuth bool
	// LiveRights checks rights at every request. Else a token that was issued
	// keeps its rights until it expires, as JWTs do.
	LiveRights bool

	// CDN redirects blob GETs to another server.
	CDN CDN
	// RedirectTTL is how long a redirect target is good. If zero, ten minutes.
	RedirectTTL time.Duration
	// Location rewrites the Location of a redirect. If nil, it stays.
	Location func(r Request, location *url.URL) string
	// ManifestRedirect redirects manifests to the CDN too, as GitLab's
	// dependency proxy does.
	ManifestRedirect bool

	// PullLimit is how many manifest GETs each user has; then 429. Zero: no
	// limit, and no rate limit headers.
	PullLimit int
	// LinkBase is before the path in the Link of a page of tags: where the registry
	// thinks that it is. Empty: a link without a host.
	LinkBase string
	// NoReferrers answers the referrers endpoint with 404, like a registry
	// from before specification 1.1.
	NoReferrers bool
	// NoRange ignores Range: blobs are always sent whole with 200.
	NoRange bool

	// Fault decides what goes wrong with a request. If nil, nothing does, but
	// what Inject asked for. It is called with the registry unlocked.
	Fault func(Request) Fault
	// OneCopy makes it a violation to fetch any byte of a blob twice (by
	// count: one-byte probes and what Stat asks for are free).
	OneCopy bool
	// Relay puts a Forwarder before each server, so that Registry.Freeze can make
	// its connections silent. It is for real sockets.
	Relay bool
	// Net is where it listens. If nil, TCP ports of 127.0.0.1.
	Net *MemoryNet
	// Now is the clock for tokens and redirects. If nil, time.Now.
	Now func() time.Time
}

// Registry is a running test upstream. All its methods are safe for concurrent
// use, also while it serves.
type Registry struct {
	opts    Options
	secret  []byte // signs redirects
	servers map[Server]*httptest.Server
	relays  map[Server]*Forwarder
	pool    *x509.CertPool

	// ready is closed when all servers have started: a client of an earlier one, whose
	// port was free again, may come before that.
	ready    chan struct{}
	closing  chan struct{} // closed first: whatever a handler waits for, it stops waiting
	once     sync.Once
	handlers sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond // on mu; anything a waiter may wait for has changed
	content content
	auth    accounts
	records []*Request
	rules   []*Injection
	ticks   int // events so far: the order of records
	broken  []string
	pulls   map[string]int // counted manifest GETs by user
	epoch   int            // of redirects
	refuse  Refusal
}

// New starts a Registry that ends with the test. At the end of the test its
// violations are errors of the test.
func New(t testing.TB, o Options) *Registry {
	t.Helper()
	r, err := Start(o)
	if err != nil {
		t.Fatalf("starting the test registry: %v", err)
	}
	t.Cleanup(func() {
		r.Close()
		for _, v := range r.Violations() {
			t.Errorf("violation at the test registry: %s", v)
		}
	})
	return r
}

// Start starts a Registry outside a test. The caller closes it.
func Start(o Options) (*Registry, error) {
	if o.HTTP2 && !o.TLS {
		return nil, errors.New("HTTP2 needs TLS")
	}
	if o.Relay && o.Net != nil {
		return nil, errors.New("a relay is for real sockets")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.TokenTTL = cmp.Or(o.TokenTTL, 5*time.Minute)
	o.RedirectTTL = cmp.Or(o.RedirectTTL, 10*time.Minute)
	o.BadPassword = cmp.Or(o.BadPassword, http.StatusUnauthorized)
	r := &Registry{
		opts:    o,
		secret:  []byte(rand.Text()),
		servers: map[Server]*httptest.Server{},
		relays:  map[Server]*Forwarder{},
		pool:    x509.NewCertPool(),
		ready:   make(chan struct{}),
		closing: make(chan struct{}),
		content: newContent(),
		auth:    newAccounts(),
		pulls:   map[string]int{},
		refuse:  o.Refusal,
	}
	r.changed = sync.NewCond(&r.mu)
	if err := r.listen(); err != nil {
		r.Close()
		return nil, err
	}
	close(r.ready)
	return r, nil
}

func (r *Registry) listen() error {
	if err := r.serve(RegistryServer, r.opts.TLS); err != nil {
		return err
	}
	if r.opts.TokenServer {
		if err := r.serve(TokenServer, r.opts.TLS); err != nil {
			return err
		}
	}
	switch r.opts.CDN {
	case CDNSame:
		return r.serve(CDNServer, r.opts.TLS)
	case CDNPlain:
		return r.serve(CDNServer, false)
	case CDNTLS:
		return r.serve(CDNServer, true)
	}
	return nil
}

func (r *Registry) serve(s Server, secure bool) error {
	l, err := r.newListener()
	if err != nil {
		return err
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		select {
		case <-r.ready:
			r.handle(s, w, hr)
		case <-r.closing:
		}
	})
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}}
	r.servers[s] = srv
	if !secure {
		srv.Start()
		return r.relay(s, l)
	}
	srv.EnableHTTP2 = r.opts.HTTP2
	protos := []string{"http/1.1"}
	if r.opts.HTTP2 {
		protos = []string{"h2", "http/1.1"}
	}
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protos}
	srv.StartTLS()
	r.pool.AddCert(srv.Certificate())
	return r.relay(s, l)
}

// relay makes the URL of a server that of a Forwarder to it, where that was asked for.
func (r *Registry) relay(s Server, l net.Listener) error {
	if !r.opts.Relay {
		return nil
	}
	f, err := startForwarder(l.Addr().String())
	if err != nil {
		return err
	}
	r.relays[s] = f
	srv := r.servers[s]
	srv.URL = strings.Replace(srv.URL, l.Addr().String(), f.Addr(), 1)
	return nil
}

func (r *Registry) newListener() (net.Listener, error) {
	if r.opts.Net != nil {
		return r.opts.Net.Listen(), nil
	}
	var lc net.ListenConfig
	return lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// DialContext reaches the registry's servers and nothing beyond this machine:
// it fits http.Transport.
func (r *Registry) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if r.opts.Net != nil {
		return r.opts.Net.DialContext(ctx, network, addr)
	}
	d := net.Dialer{Control: LoopbackOnly}
	return d.DialContext(ctx, network, addr)
}

// Close ends all servers: whatever is held or stalled goes on and finds its
// connection closed. It returns when every handler has. More calls do nothing.
func (r *Registry) Close() {
	r.once.Do(func() {
		r.mu.Lock() // a handler that saw it open has been counted
		close(r.closing)
		r.changed.Broadcast()
		r.mu.Unlock()
		for _, s := range r.servers {
			s.CloseClientConnections()
			s.Close()
		}
		for _, f := range r.relays {
			f.close()
		}
		r.handlers.Wait()
	})
}

// Sever closes every open connection, as a crash of the registry would. The
// servers go on listening.
func (r *Registry) Sever() {
	for _, s := range r.servers {
		s.CloseClientConnections()
	}
}

// URL is the registry's base URL, without a slash at the end.
func (r *Registry) URL() string { return r.servers[RegistryServer].URL }

// Host is the registry's host and port.
func (r *Registry) Host() string { return hostOf(r.URL()) }

// Origin is the registry as the platform's own origin.
func (r *Registry) Origin() oci.Origin {
	scheme := "http"
	if r.opts.TLS {
		scheme = "https"
	}
	return oci.Origin{Scheme: scheme, Host: r.Host()}
}

// CDNURL is the base URL of the CDN; empty where there is none.
func (r *Registry) CDNURL() string {
	if s, ok := r.servers[CDNServer]; ok {
		return s.URL
	}
	return ""
}

// TokenURL is the token endpoint.
func (r *Registry) TokenURL() string {
	if s, ok := r.servers[TokenServer]; ok {
		return s.URL + tokenPath
	}
	return r.URL() + tokenPath
}

// CertPEM is the certificate of every https server, to be written into a file.
func (r *Registry) CertPEM() []byte {
	for _, s := range r.servers {
		if c := s.Certificate(); c != nil {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
	}
	return nil
}

// CertPool trusts every server of this registry.
func (r *Registry) CertPool() *x509.CertPool { return r.pool.Clone() }

// Client is a new polite HTTP client that trusts the registry, follows no
// redirect and reuses no connection once it is closed. Its transport dials
// loopback only.
func (r *Registry) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:        r.DialContext,
			TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.pool},
			ForceAttemptHTTP2:  r.opts.HTTP2,
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// wake lets every waiter look again.
func (r *Registry) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed.Broadcast()
}

// await blocks until ok, which is called with mu held, says true.
func (r *Registry) await(ctx context.Context, ok func() bool) error {
	stop := context.AfterFunc(ctx, r.wake)
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.isClosing() {
			return errClosed
		}
		r.changed.Wait()
	}
	return nil
}

var errClosed = errors.New("the test registry is closed")

func (r *Registry) isClosing() bool {
	select {
	case <-r.closing:
		return true
	default:
		return false
	}
}

func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		panic(err) // it is our own URL
	}
	return u.Host
}

// Violations are the broken rules so far, oldest first, each one line.
func (r *Registry) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Concat(r.broken, r.tooManyCopies())
}

// TakeViolations is Violations, and forgets them: for tests that provoke one.
func (r *Registry) TakeViolations() []string {
	v := r.Violations()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = nil
	return v
}
