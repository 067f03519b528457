package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"berth/internal/flight"
	"berth/oci"

	"berth/upstream/classify"
)

// reprobe is how often a challenge that is in doubt is asked for again.
const reprobe = 30 * time.Second

// The schemes of a Challenge.
const (
	schemeNone    = ""
	schemeBasic   = "basic"
	schemeBearer  = "bearer"
	schemeUnknown = "unknown" // a 401 that does not say how
	schemeLong    = "Bearer with a service of more than 256 bytes"
)

// Challenge is how an origin wants to be authenticated to.
type Challenge struct {
	// Scheme is "basic", "bearer", or empty where nothing is wanted. Anything
	// else cannot be served.
	Scheme string
	// Realm is the token endpoint and Service what to ask it for; for bearer.
	Realm, Service string
}

// prober asks an origin for its challenge and keeps it. It always asks without
// credentials: Harbor answers with another scheme to a request that has some.
type prober struct {
	base      *url.URL
	registry  string
	userAgent string
	send      http.RoundTripper
	now       func() time.Time
	changed   func() // called when a challenge replaces another one
	mayAsk    func(realm string) bool
	flights   *flight.Group[struct{}, Challenge]

	mu    sync.Mutex // guards all below
	known *Challenge
	asked time.Time
	doubt bool
}

// challenge is what is known, or is asked for by one request for all who wait.
// Only success is remembered; a failure leaves an older challenge in force.
func (p *prober) challenge(ctx context.Context) (Challenge, error) {
	if c := p.settled(); c != nil {
		return *c, nil
	}
	c, err := p.flights.Do(ctx, struct{}{}, func(own context.Context) (Challenge, error) { return p.ask(oci.OnBehalf(own, oci.BehalfOf(ctx))) })
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil {
		return *p.known, nil
	}
	return Challenge{}, err
}

// settled is the challenge if it need not be asked for now.
func (p *prober) settled() *Challenge {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil && p.doubt && p.now().Sub(p.asked) >= reprobe {
		return nil
	}
	return p.known
}

// suspect says that the challenge may have changed.
func (p *prober) suspect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubt = true
}

func (p *prober) ask(ctx context.Context) (Challenge, error) {
	if c := p.settled(); c != nil {
		return *c, nil // it came while this flight was starting
	}
	c, err := p.ping(ctx)
	p.mu.Lock()
	p.asked = p.now()
	known := p.known
	p.mu.Unlock()
	odd := errors.Is(err, errOtherwise)
	if err != nil && !odd {
		return Challenge{}, err
	}
	says := !odd && c.Scheme != schemeUnknown
	if !says && known != nil {
		return *known, nil
	}
	p.learn(c)
	if !says {
		p.suspect() // it is looked at again, whoever has asked: a page may stand in its place
	}
	return c, nil
}

// learn keeps c.
func (p *prober) learn(c Challenge) {
	p.mu.Lock()
	old := p.known
	p.known, p.doubt = &c, false
	p.mu.Unlock()
	if old != nil && *old != c {
		p.changed()
	}
}

// last is the challenge as last known, nil: none.
func (p *prober) last() *Challenge {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}

// overhear reads the challenge of an answer to a request without credentials. ok is
// false for one that cannot be used: /v2/ may say it better.
func (p *prober) overhear(header http.Header) (c Challenge, ok bool) {
	c = read(header, p.mayAsk)
	if c.Scheme != schemeBasic && c.Scheme != schemeBearer {
		p.suspect()
		return Challenge{}, false
	}
	return c, true
}

// ping asks for /v2/. It does by itself what transport.Ping of go-containerregistry does
// too: that one asks hosts that look local over http as well, takes docker.io for
// index.docker.io, follows redirects, reads bodies to their end, and takes the last of
// two realms in one challenge, where the first is the one that was looked at.
func (p *prober) ping(ctx context.Context) (Challenge, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base.JoinPath("v2/").String(), nil)
	if err != nil {
		return Challenge{}, fmt.Errorf("asking %s how to sign in: %w", p.registry, err)
	}
	req.Header.Set("User-Agent", p.userAgent)
	resp, err := p.send.RoundTrip(req) //nolint:bodyclose // readSome closes it
	if err != nil {
		return Challenge{}, classify.Failure(p.registry, p.base.Host, err)
	}
	body, err := readSome(resp.Body, classify.MaxErrorBody)
	if err != nil {
		return Challenge{}, classify.Failure(p.registry, p.base.Host, err)
	}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized:
		return read(resp.Header, p.mayAsk), nil
	case status == http.StatusOK && !classify.Read(resp.Header, body).Page:
		return Challenge{}, nil
	case answersOtherwise(status), status/100 == 3 && staysHere(p.base, resp.Header.Get("Location")):
		return Challenge{}, errOtherwise
	}
	return Challenge{}, p.failure(resp, body)
}

// errOtherwise is of an answer which says that there is no challenge at /v2/.
var errOtherwise = errors.New("nothing is asked for at /v2/")

// failure says why there is no challenge in an answer.
func (p *prober) failure(resp *http.Response, body []byte) error {
	status := resp.StatusCode
	switch {
	case status/100 == 3:
		return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: fmt.Sprintf("%s sends everyone elsewhere (%d at /v2/): set its endpoint to where it really is", p.registry, status)}
	case status == http.StatusTooManyRequests || status >= 500:
		return classify.Answer(classify.Response{Registry: p.registry, Status: status, Header: resp.Header, Body: body, Now: p.now()})
	}
	return &oci.Error{Class: oci.UpstreamError, NotUnderstood: classify.MayBeRefusal(status), Message: fmt.Sprintf("%s does not answer like a registry (%d at /v2/): check its endpoint", p.registry, status)}
}

// readSome reads at most limit bytes of body and closes it.
func readSome(body io.ReadCloser, limit int64) ([]byte, error) {
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, limit))
}
