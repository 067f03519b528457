package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"berth/oci"

	"berth/internal/limit"
	"berth/internal/share"

	"berth/auth/credential"
	"berth/auth/token"
	"berth/upstream/dialect"
)

// Options say which origin it is and how it is reached.
type Options struct {
	// Name is the registry as users name it: docker.io.
	Name string
	// Origin is where it is really reached.
	Origin oci.Origin
	// Type is what kind of registry it is, for reading its refusals.
	Type dialect.Type
	// TokenEndpoints may be asked for tokens, besides the origin's own and the Type's.
	TokenEndpoints []string
	// Auth counts what becomes of credentials. If nil, nothing is counted.
	Auth *credential.Metrics
	// Before stands before the transport for challenges and tokens. It may be nil.
	Before func(http.RoundTripper) http.RoundTripper

	// AllowPrivate lists networks that may be dialled although they are not
	// public. A metadata service is only reached when it is listed by itself.
	AllowPrivate []netip.Prefix
	// Named are the URLs that the operator wrote down: their hosts may have any
	// address. The Origin is not one of them unless it is listed too: what an
	// organisation brought must be public.
	Named []*url.URL
	// Resolver looks names up. If nil, the system's is used.
	Resolver *net.Resolver
	// CAs are the only authorities that are trusted. If nil, the system's are.
	CAs *x509.CertPool
	// Proxy is an HTTP, HTTPS or SOCKS5 proxy. It resolves names in our place,
	// so the address policy then only sees hosts that are addresses. If nil,
	// none is used, whatever the environment says.
	Proxy *url.URL
	// Hosts admit what goes to the registry, together with all that goes to others at
	// the same host. If nil, nothing else does.
	Hosts *limit.Hosts
	// Memory is for manifests while they are read, where whoever asks has no share of it
	// yet. If nil, there is any amount.
	Memory *limit.Pool
	// Open bounds the connections to all registries. If nil, nothing does.
	Open *Connections
	// Sessions are those of TLS with all registries. If nil, it has its own.
	Sessions *Sessions
	// Tokens are those of all registries. If nil, it has its own.
	Tokens *token.Kept
	// UserAgent is who we say we are. If empty, "berth".
	UserAgent string

	// Logger hears about odd answers. If nil, nobody does.
	Logger *slog.Logger
	// CoolDown hears until when the registry is not asked as an account, and the
	// zero time when that is over early. Empty names: everyone, or nobody's
	// account. If nil, nobody does.
	CoolDown func(organisation, account string, until time.Time)
	// Label is its name in metrics. If empty, Name.
	Label string
	// Metrics counts. If nil, nothing is counted.
	Metrics *Metrics
	// Now is the clock for when a registry was asked. If nil, time.Now is used.
	Now func() time.Time
}

// keptTypes bounds for how many manifests it is remembered that they were sent as
// something else. One that is forgotten is told as it is sent.
const keptTypes = 1024

// Registry is one origin over HTTP. It is safe for concurrent use.
type Registry struct {
	owner     string
	kind      dialect.Type
	agent     string
	authority *token.Client
	accounts  *accounts
	shares    shares
	conns     *pools
	sessions  *sessionsOf
	// Requests go through these: the pools, and what stands before them.
	meta, blob http.RoundTripper
	sender
	host       *limit.Host
	memory     *limit.Pool
	labels     labels
	settlement *settlement
	// types are the media types of manifests that were sent as another one.
	types *share.LRU[oci.Digest, string]
	log   *slog.Logger
	// turning is held while what the breakers are is shown, so that what is shown
	// last is the latest.
	turning  sync.Mutex
	said     time.Time // that it is in trouble, at most once in troubleSaid
	saidOpen bool      // and not yet that this is over
	probes   *probes
}

// troubleSaid keeps one organisation, whose requests fail and succeed in turn, from
// filling the log.
const troubleSaid = time.Minute

// New makes a Registry. It does no I/O; an error means that the options make
// no sense.
func New(o Options) (*Registry, error) {
	o = o.withDefaults()
	u, err := url.Parse(o.Origin.URL())
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("registry %s: %q is no origin", o.Name, o.Origin.URL())
	}
	named := slices.Clone(o.Named)
	if o.Proxy != nil {
		named = append(named, o.Proxy)
	}
	d := newDialer(o.AllowPrivate, named, o.Resolver)
	if o.Origin.Owner != "" {
		d.policy.local = ownAddresses
	}
	sessions := &sessionsOf{all: o.Sessions, owner: o.Origin.Owner}
	conns := newPools(transportOptions{dialer: d, secure: newSecure(o.CAs, sessions), proxy: o.Proxy, http2: o.Origin.Owner == "", idle: cmp.Or(o.Hosts.Connections, 16), all: o.Open})
	r := &Registry{
		owner: o.Origin.Owner, kind: o.Type, agent: o.UserAgent,
		conns: conns, meta: pooledTransport{conns, false}, blob: pooledTransport{conns, true},
		sender:   sender{name: o.Name, label: cmp.Or(o.Label, o.Name), url: u, budgets: newBudgets(), metrics: o.Metrics, hostStats: newHostStats(), now: o.Now, pause: firstWait},
		sessions: sessions,
		host:     o.Hosts.Use(o.Origin.Owner, canonicalHost(u), o.Type.PerMinute),
		memory:   o.Memory,
		log:      o.Logger,
	}
	r.accounts = newAccounts(&o)
	r.settlement = newSettlement()
	r.probes = newProbes()
	r.types = share.New[oci.Digest, string](keptTypes, nil)
	if o.Proxy != nil {
		r.meta, r.blob = literals{r.meta, d}, literals{r.blob, d}
	}
	r.origin, r.tokens = newBreaker(r.turned), newBreaker(r.turned)
	r.metrics.breaker(r.label, false)
	var auth http.RoundTripper = &authTransport{r}
	if o.Before != nil {
		auth = o.Before(auth)
	}
	r.authority, err = token.New(token.Options{
		Origin: o.Origin, Registry: o.Name, Type: o.Type, TokenEndpoints: o.TokenEndpoints,
		Transport: auth, UserAgent: o.UserAgent, Metrics: o.Auth, Logger: o.Logger, Now: o.Now, Kept: o.Tokens,
	})
	if err != nil {
		r.host.Leave()
		return nil, err
	}
	return r, nil
}

// Authority is what signs its requests: for what is known of credentials, and a diagnosis.
func (r *Registry) Authority() *token.Client { return r.authority }

// Troubled says that the registry or its token endpoint fails for everyone or for
// somebody, who is not let through more than once in a second.
func (r *Registry) Troubled() bool { return r.origin.open() || r.tokens.open() }

// turned shows that a breaker opened or closed.
func (r *Registry) turned(open bool) {
	r.turning.Lock()
	defer r.turning.Unlock()
	either := r.Troubled()
	r.metrics.breaker(r.label, either)
	switch now := time.Now(); {
	case open && now.Sub(r.said) >= troubleSaid:
		r.said, r.saidOpen = now, true
		r.log.Warn("a registry is in trouble: it is asked once in a second only, until it answers", "registry", r.name)
	case !either && r.saidOpen:
		r.saidOpen = false
		r.log.Info("a registry answers again", "registry", r.name)
	}
}

func (o Options) withDefaults() Options {
	if o.Hosts == nil {
		o.Hosts = &limit.Hosts{}
	}
	if o.Sessions == nil {
		o.Sessions = NewSessions()
	}
	if o.UserAgent == "" {
		o.UserAgent = "berth"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CoolDown == nil {
		o.CoolDown = func(string, string, time.Time) {}
	}
	return o
}

// Close ends probes and exchanges, and closes the connections that are idle. Answers that are
// being read go on; their connections close when they are done.
func (r *Registry) Close() {
	r.probes.close()
	r.authority.Close()
	r.conns.close()
	r.sessions.forget()
	r.host.Leave()
}

// authTransport is how the token client reaches the origin and its token
// endpoints. Its errors are *oci.Error where the network is at fault.
type authTransport struct{ r *Registry }

// RoundTrip sends req, again where that may help. Reading the answer included
// it takes no longer than a call may take until its header is there.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	who := asker{registry: t.r.name, owner: t.r.owner}
	if !token.SameOrigin(req.URL, t.r.url) { // else whoever needs the token has asked
		if f, ok := t.r.tokens.enter(req.Context(), oci.BehalfOf(req.Context())); !ok {
			return nil, who.remembered(f)
		}
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), openLimit, errNoHeader)
	sent := req.Clone(ctx)
	sent.Header.Set("User-Agent", t.r.agent)
	sent.Header.Set("Accept-Encoding", "identity")
	defer cancel()
	resp, err := retryUnusable(ctx, t.r, func() (*http.Response, error) { return t.whole(ctx, sent, who) })
	if err != nil {
		return nil, who.fault(req.Context(), err)
	}
	return resp, nil
}

// maxAuth bounds what a token client may want to read of an answer.
const maxAuth = 1 << 20

// whole sends req and reads the answer to its end: one that breaks off is as good
// as none.
func (t *authTransport) whole(ctx context.Context, req *http.Request, who asker) (*http.Response, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	got, err := t.r.send(ctx, t.r.meta, req.WithContext(ctx), opAuth, maxRetries)
	if err != nil {
		return nil, err
	}
	clock := time.AfterFunc(smallStall, func() { end(errTooSlow) })
	defer clock.Stop()
	text, err := io.ReadAll(io.LimitReader(got.Body, maxAuth))
	_ = got.Body.Close() // what counts has been read
	switch cause := context.Cause(ctx); {
	case err == nil:
	case cause != nil:
		return nil, cause
	default:
		e := who.nonsense("broke off while it was asked how to sign in; try again")
		e.Err = fmt.Errorf("%w: %w", errUnusable, unquoted(err))
		return nil, e
	}
	if got.StatusCode == http.StatusUnauthorized && req.Header.Get("Authorization") == "" && token.SameOrigin(req.URL, t.r.url) {
		t.r.settlement.pinged.Store(true)
	}
	// Gateways compress what is small although nobody asked them to.
	got.Body = io.NopCloser(bytes.NewReader(versions(got.Header, text)[0]))
	got.Header.Del("Content-Encoding")
	return got.Response, nil
}
