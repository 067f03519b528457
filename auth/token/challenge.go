package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

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
	c, err := p.flights.Do(ctx, struct{}{}, p.ask)
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
	c, err := p.ping(ctx, p.guarded)
	p.mu.Lock()
	p.asked = p.now()
	known := p.known
	p.mu.Unlock()
	odd := errors.Is(err, errOtherwise)
	if odd && known != nil {
		return *known, nil
	}
	if err != nil && !odd {
		return Challenge{}, err
	}
	p.learn(c)
	if odd {
		p.suspect() // it is looked at again
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
	c, err := p.ping(context.Background(), p.replay(header))
	if err != nil || c.Scheme != schemeBasic && c.Scheme != schemeBearer {
		p.suspect()
		return Challenge{}, false
	}
	return c, true
}

// ping lets go-containerregistry ask for /v2/ and read the challenge.
func (p *prober) ping(ctx context.Context, via func(*answerState) http.RoundTripper) (Challenge, error) {
	options := []name.Option{name.StrictValidation}
	if p.base.Scheme == "http" {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(p.base.Host, options...)
	if err != nil {
		return Challenge{}, fmt.Errorf("asking %s how to sign in: %w", p.registry, err)
	}
	var seen answerState
	found, err := transport.Ping(ctx, registry, via(&seen))
	if errors.Is(err, errOtherwise) {
		return Challenge{}, errOtherwise
	}
	if err != nil {
		return Challenge{}, p.failure(&seen, err)
	}
	c := Challenge{Scheme: strings.ToLower(oci.OneLine(found.Scheme, 40)), Realm: found.Parameters["realm"], Service: found.Parameters["service"]}
	if seen.status == http.StatusUnauthorized && c.Scheme == schemeNone {
		c.Scheme = schemeUnknown // Harbor and GCR send an empty challenge at times
	}
	return c, nil
}

// answerState is what went by while Ping asked.
type answerState struct {
	mu     sync.Mutex
	status int
	header http.Header
	body   []byte
	err    error
}

func (s *answerState) set(resp *http.Response, body []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if resp != nil {
		s.status, s.header, s.body = resp.StatusCode, resp.Header, body
	}
}

// errForeignPing ends requests of Ping in another scheme than the origin's.
var errForeignPing = errors.New("an origin is asked in its own scheme only")

// guarded is the transport for Ping, which by itself tries https first, falls
// back to http for hosts that look local, follows redirects and reads bodies to
// their end. Here only the origin is asked, in its own scheme, a redirect is an
// error and a body has an end.
func (p *prober) guarded(seen *answerState) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Scheme != p.base.Scheme {
			return nil, errForeignPing
		}
		req = req.Clone(req.Context())
		req.URL.Host, req.Host = p.base.Host, "" // Ping takes docker.io for index.docker.io
		req.Header.Set("User-Agent", p.userAgent)
		resp, err := p.send.RoundTrip(req)
		if err != nil {
			seen.set(nil, nil, err)
			return nil, err
		}
		body, err := readSome(resp.Body, classify.MaxErrorBody)
		if err != nil {
			seen.set(nil, nil, err)
			return nil, err
		}
		seen.set(resp, body, nil)
		stays := staysHere(p.base, resp.Header.Get("Location"))
		if resp.StatusCode/100 == 3 {
			resp.Header.Del("Location") // Ping's client then has nowhere to go
		}
		if resp.StatusCode == http.StatusUnauthorized {
			resp.Header = usable(resp.Header, p.mayAsk)
		}
		if answersOtherwise(resp.StatusCode) && (resp.StatusCode != http.StatusOK || classify.Read(resp.Header, body).Page) || resp.StatusCode/100 == 3 && stays {
			return nil, errOtherwise
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	})
}

// errOtherwise ends a Ping whose answer says that there is no challenge at /v2/.
var errOtherwise = errors.New("nothing is asked for at /v2/")

// failure says why there is no challenge. Ping's own error may be that of a
// scheme that was never sent, so what went by decides.
func (p *prober) failure(seen *answerState, err error) error {
	seen.mu.Lock()
	defer seen.mu.Unlock()
	switch {
	case seen.err != nil:
		return classify.Failure(p.registry, p.base.Host, seen.err)
	case seen.status == 0:
		return classify.Failure(p.registry, p.base.Host, err)
	case seen.status/100 == 3:
		return &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: fmt.Sprintf("%s sends everyone elsewhere (%d at /v2/): set its endpoint to where it really is", p.registry, seen.status)}
	case seen.status == http.StatusTooManyRequests || seen.status >= 500:
		return classify.Answer(classify.Response{Registry: p.registry, Status: seen.status, Header: seen.header, Body: seen.body, Now: p.now()})
	}
	return &oci.Error{Class: oci.UpstreamError, NotUnderstood: classify.IsRiddle(seen.status), Message: fmt.Sprintf("%s does not answer like a registry (%d at /v2/): check its endpoint", p.registry, seen.status)}
}

// replay reads the challenge in an answer that is already here.
func (p *prober) replay(header http.Header) func(*answerState) http.RoundTripper {
	return func(seen *answerState) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Scheme != p.base.Scheme {
				return nil, errForeignPing
			}
			resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: usable(header, p.mayAsk), Body: http.NoBody, Request: req}
			seen.set(resp, nil, nil)
			return resp, nil
		})
	}
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// readSome reads at most limit bytes of body and closes it.
func readSome(body io.ReadCloser, limit int64) ([]byte, error) {
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, limit))
}
