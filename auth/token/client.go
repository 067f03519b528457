package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/internal/flight"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/classify"
	"berth/upstream/dialect"
)

// Options are what a Client is made of.
type Options struct {
	// Origin is whom it speaks for, Registry what messages call it.
	Origin   oci.Origin
	Registry string
	// Type is the kind of registry. Its token endpoints are allowed.
	Type dialect.Type
	// TokenEndpoints are allowed besides the origin's own host and port and
	// those of the Type: scheme, host, port and path must be these.
	TokenEndpoints []string
	// Transport sends the requests: it dials, retries and limits headers. It
	// must follow no redirects, which no http.Transport does, and its errors are
	// *oci.Errors, or those of the request's context. Required.
	Transport http.RoundTripper
	// Timeout bounds one exchange, retries and all. If 0, 10 s.
	Timeout time.Duration
	// Kept has what all Clients remember. If nil, it is its own.
	Kept *Kept
	// UserAgent is how it introduces itself. If empty, "berth".
	UserAgent string
	// Metrics may be nil.
	Metrics *credential.Metrics
	// Now is the clock. If nil, time.Now is used.
	Now func() time.Time
	// Logger hears about refused credentials and realms. If nil, nobody does.
	Logger *slog.Logger
}

// Client puts credentials on requests to one origin. It learns by itself how
// the origin wants that, keeps tokens in memory, and leaves refused credentials
// alone. It serves everyone who pulls from the origin; tokens and refusals of
// one credential never touch another.
type Client struct {
	origin   *url.URL
	registry string
	now      func() time.Time
	log      *slog.Logger
	metrics  *credential.Metrics

	probe     prober
	exchange  exchange
	standings *standings
	kept      *Kept
	broughtBy string // the organisation whose registry it is, if it is one's
	fetching  *flight.Group[tokenKey, bearerToken]
	purges    purges

	warned struct {
		sync.Mutex

		realm string // the last realm that was warned about
	}
}

// New makes one. It sends nothing yet. Errors: an origin or a token
// endpoint that is none, or no Transport. Close it.
func New(o Options) (*Client, error) {
	if o.Transport == nil {
		return nil, errors.New("an authority needs a transport")
	}
	o.fill()
	realms, err := NewRealms(o.Origin, slices.Concat(o.Type.TokenEndpoints, o.TokenEndpoints)...)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", o.Registry, err)
	}
	a := &Client{
		kept: o.Kept, broughtBy: o.Origin.Owner,
		origin: realms.origin, registry: o.Registry, now: o.Now, log: o.Logger, metrics: o.Metrics,
		exchange:  exchange{registry: o.Registry, kind: o.Type, realms: realms, send: o.Transport, now: o.Now, userAgent: o.UserAgent},
		standings: newStandings(o.Now), fetching: flight.New[tokenKey, bearerToken](o.Timeout),
	}
	a.probe = prober{base: realms.origin, registry: o.Registry, userAgent: o.UserAgent, send: o.Transport, now: o.Now, changed: a.challengeChanged, mayAsk: realms.allows, flights: flight.New[struct{}, Challenge](o.Timeout)}
	return a, nil
}

func (o *Options) fill() {
	o.Timeout, o.UserAgent = cmp.Or(o.Timeout, 10*time.Second), cmp.Or(o.UserAgent, "berth")
	if o.Kept == nil {
		o.Kept = NewKept()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Close ends what is under way and waits for it. Nothing is authorised afterwards.
func (a *Client) Close() {
	a.probe.flights.Close()
	a.fetching.Close()
	a.kept.forget(a)
}

// Authorize puts the right Authorization header for pulling repo as cred on
// req: a token, Basic credentials, or none. A nil cred is nobody, for whom
// anonymous tokens are fetched where the origin wants tokens. req must go to the
// origin; whatever header it had is removed first.
//
// Errors are *oci.Error: Unauthorized, at once and from memory during a
// cool-down; Denied and NoCredential where the token endpoint knows already;
// NotFound, RateLimited, Unreachable, Timeout and UpstreamError as they are.
func (a *Client) Authorize(ctx context.Context, req *http.Request, cred *credential.Credential, repo string) error {
	req.Header.Del("Authorization")
	if !SameOrigin(req.URL, a.origin) {
		return &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("a request to %s is not one to %s: it gets no credentials", req.URL.Host, a.registry)}
	}
	if cred != nil && (cred.Fingerprint == "" || cred.Version == "") {
		return &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("the credential for %s has no fingerprint", a.registry)}
	}
	if e := a.Refusal(cred); e != nil {
		return e
	}
	c, own := a.kept.challenges.Get(repoKey{a, repo})
	if !own {
		var err error
		if c, err = a.probe.challenge(ctx); err != nil {
			return oci.AsError(err)
		}
	}
	switch c.Scheme {
	case schemeNone:
		return nil
	case schemeBasic:
		return a.basic(req, cred)
	case schemeBearer:
		t, err := a.token(ctx, c, cred, repo)
		if err != nil {
			return oci.AsError(err)
		}
		req.Header.Set("Authorization", "Bearer "+t.text.Reveal())
		return nil
	}
	return a.unknownScheme(c, cred)
}

// basic sets Basic credentials. A refusal may have been remembered while the
// challenge was on its way.
func (a *Client) basic(req *http.Request, cred *credential.Credential) error {
	if cred == nil {
		return nil
	}
	if e := a.Refusal(cred); e != nil {
		return e
	}
	req.SetBasicAuth(cred.UserAndPassword())
	return nil
}

// Trial waits while another request with Basic credentials finds out whether they are
// good, which Authorize has put on req. Else twenty requests at once with a password that
// has been changed are twenty failed logins, and accounts are locked for less. leave is
// called when req is answered, and told whether the registry took them; the error is what
// is held against them by now. A token needs none: fetching it was the trial.
func (a *Client) Trial(ctx context.Context, req *http.Request, cred *credential.Credential) (leave func(good bool), err error) {
	if scheme, _, _ := strings.Cut(req.Header.Get("Authorization"), " "); cred == nil || scheme != "Basic" {
		return func(bool) {}, nil
	}
	leave, known, err := a.standings.enter(ctx, cred)
	switch {
	case err != nil:
		return nil, err
	case known != nil:
		return nil, a.fromMemory(known, cred)
	}
	return leave, nil
}

// unknownScheme: nobody may still try without; a credential has no way.
func (a *Client) unknownScheme(c Challenge, cred *credential.Credential) error {
	if cred == nil {
		return nil
	}
	a.probe.suspect()
	return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: fmt.Sprintf("%s wants to be signed in to in a way that is not known here (%q): only Basic and Bearer are", a.registry, c.Scheme)}
}

// token is from memory, or fetched by one request for all who want the same.
// While a token that is due for renewal still lives, trouble with fetching the
// next one is no trouble.
func (a *Client) token(ctx context.Context, c Challenge, cred *credential.Credential, repo string) (bearerToken, error) {
	key := a.tokenKey(c, cred, repo)
	old, ok := a.kept.tokens.Get(key)
	if ok && a.now().Before(old.renew) {
		old.kept.Store(true)
		return old, nil
	}
	t, err := a.fetching.Do(ctx, key, func(own context.Context) (bearerToken, error) {
		return a.fetch(oci.OnBehalf(own, oci.BehalfOf(ctx)), key, c, cred, repo)
	})
	if err != nil && ok && ctx.Err() == nil && a.now().Before(old.expires) && oci.Indeterminate(err) {
		return old, nil
	}
	return t, err
}

func (a *Client) tokenKey(c Challenge, cred *credential.Credential, repo string) tokenKey {
	key := tokenKey{at: a, realm: c.Realm, service: c.Service, repo: repo}
	if cred != nil {
		key.organisation, key.account, key.fingerprint = cred.Organisation, cred.Name, cred.Version
	}
	return key
}

// fetch runs once per key at a time.
func (a *Client) fetch(ctx context.Context, key tokenKey, c Challenge, cred *credential.Credential, repo string) (bearerToken, error) {
	if t, ok := a.kept.tokens.Get(key); ok && a.now().Before(t.renew) {
		return t, nil // it came while this flight was starting
	}
	if cred != nil {
		leave, known, err := a.standings.enter(ctx, cred)
		if err != nil {
			return bearerToken{}, classify.Failure(a.registry, "", err)
		}
		if known != nil {
			return bearerToken{}, a.fromMemory(known, cred)
		}
		defer leave(false) // Accepted says so where it is
	}
	before := a.purges.before()
	t, err := a.exchange.grant(ctx, c, cred, repo)
	if err != nil {
		a.failed(err, c, cred, repo)
		return bearerToken{}, err
	}
	a.keep(key, t, before)
	a.Accepted(cred)
	return t, nil
}

// Challenge is how the origin wants to be authenticated to, asked for where it
// is not known; and whether its realm may be used, as the error. It is for
// diagnosis.
func (a *Client) Challenge(ctx context.Context) (Challenge, error) {
	c, err := a.probe.challenge(ctx)
	if err != nil || c.Scheme != schemeBearer {
		return c, err
	}
	if _, err := a.exchange.realms.Check(c.Realm); err != nil {
		return c, a.exchange.foreignRealm(err)
	}
	return c, nil
}

func (a *Client) challengeChanged() {
	a.standings.forget()
	a.log.Info("the registry changed how it wants to be signed in to", slog.String("registry", a.registry))
}

// warnRealm logs a realm once, until another one comes.
func (a *Client) warnRealm(c Challenge, e *oci.Error) {
	a.warned.Lock()
	defer a.warned.Unlock()
	if a.warned.realm != c.Realm {
		a.warned.realm = c.Realm
		a.log.Warn("a token endpoint was not asked", slog.String("registry", a.registry), slog.String("reason", e.Message))
	}
}
