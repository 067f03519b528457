package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sethvargo/go-retry"

	"berth/internal/limit"
	"berth/oci"

	"berth/auth/token"
	"berth/upstream/classify"
)

const (
	maxRetries    = 3                      // of a request to the registry
	headRetries   = 1                      // of a HEAD: a GET follows
	targetRetries = 1                      // of a redirect target: the registry may name a better one
	firstWait     = 250 * time.Millisecond // doubled each time, plus or minus half of it
	// A registry that asks for a longer pause than this gets it: the caller is
	// told at once, and decides what else to do.
	patience = 3 * time.Second
	// A 429 without Retry-After is often a burst limit (nginx at Quay).
	unsaidPause = time.Second
	maxUnsaid   = 2 // of them in one call
	// openLimit is how long a call may take until its header is there, tokens,
	// redirects and retries included. The client gives up after 20 s or more.
	openLimit = 15 * time.Second
	maxDrain  = 16 << 10
)

// sender is the one place that sends a request again. Everything goes through
// it, so attempts do not multiply.
type sender struct {
	name      string // of the registry
	label     string // in metrics
	url       *url.URL
	budgets   *budgets
	metrics   *Metrics
	hostStats *hostStats
	now       func() time.Time
	pause     time.Duration // firstWait, but in tests
	// origin is the breaker of the registry, tokens that of token endpoints on
	// other hosts.
	origin, tokens *breaker
}

// breaker is the one for a request, nil: redirect targets have none. They are
// many, and the registry may name another one.
func (s *sender) breaker(req *http.Request, op operation) *breaker {
	switch {
	case op == opRedirect:
		return nil
	case op == opAuth && !token.SameOrigin(req.URL, s.url):
		return s.tokens
	}
	return s.origin
}

// reply is an answer, and when the request that got it was sent.
type reply struct {
	*http.Response
	sent time.Time
}

// errAgain is only a mark for the retry loop.
var errAgain = errors.New("worth another try")

// send sends a GET or HEAD (anything else once) until it gets an answer that
// no further try can mend, or may not try again: retries, the retry budget and
// the time limit of ctx are used up. Then the last answer or error is the
// result, whichever it was. The caller closes the answer's body.
func (s *sender) send(ctx context.Context, via http.RoundTripper, req *http.Request, op operation, retries uint64) (*reply, error) {
	s.budgets.earn(ctx)
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		retries = 0
	}
	var last attempt
	tries := 0
	b := s.breaker(req, op)
	if b != nil {
		if f, ok := b.goesOn(oci.BehalfOf(ctx)); !ok {
			return nil, asker{registry: s.name}.remembered(f)
		}
	}
	err := retry.Do(ctx, s.backoff(ctx, b, retries, &last), func(context.Context) error {
		last.drop()
		last = s.tryPastDead(ctx, via, req, op, tries > 0)
		tries++
		if last.again == oci.Unclassified {
			return nil
		}
		return retry.RetryableError(errAgain)
	})
	if err != nil && !errors.Is(err, errAgain) { // ctx ended while waiting
		last.drop()
		return nil, err
	}
	if last.err != nil {
		return nil, last.err
	}
	return &last.reply, nil
}

// attempt is one request on the wire.
type attempt struct {
	reply
	err error
	// again says why another try may help; Unclassified: it will not.
	again oci.Class
	// after is how long the registry wants to be left alone; unsaid: it wants
	// that, but did not say for how long.
	after  time.Duration
	unsaid bool
}

// tryPastDead tries, and again at once where the connection was dead. That is no retry of
// what the registry did, so it costs nothing of the budget; there cannot be more of
// it than there were connections.
func (s *sender) tryPastDead(ctx context.Context, via http.RoundTripper, req *http.Request, op operation, patient bool) attempt {
	most := maxLost
	if callOf(ctx).counted {
		most = 1
	}
	var before *exchange
	for lost := 0; ; lost++ {
		x := s.begin(ctx, via, req, op, most-lost)
		x.patient = patient
		a := s.try(ctx, x)
		if before != nil && a.err == nil {
			x.compare(before)
		}
		if !errors.Is(a.err, errLost) || ctx.Err() != nil {
			return a
		}
		s.metrics.retry(s.label, a.again)
		before = x
	}
}

func (s *sender) try(ctx context.Context, x *exchange) attempt {
	a := attempt{reply: reply{sent: s.now()}}
	if t := callOf(ctx).ticket; t != nil {
		if a.err = t.Spend(canonicalHost(x.req.URL)); a.err != nil {
			return a
		}
	}
	span := x.traced(ctx, x.patient)
	start := time.Now()
	a.Response, a.err = x.roundTrip() //nolint:bodyclose // drop closes it, or whoever gets the answer
	took := time.Since(start)
	var about bool
	about, a.err = x.ended(a.Response, a.err)
	a.endTrace(span)
	s.metrics.try(s.label, x.op, a.Response, a.err, took)
	if about {
		s.tellBreaker(ctx, x, &a, took)
	}
	switch {
	case a.err == nil:
		a.judge(s.now())
	case !permanent(a.err):
		a.again = classOf(a.err)
	}
	return a
}

// tellBreaker has the breaker hear how x went. That the registry hands out tokens and
// challenges does not mean that it has its images: such answers count only where they are
// bad.
func (s *sender) tellBreaker(ctx context.Context, x *exchange, a *attempt, took time.Duration) {
	b := s.breaker(x.req, x.op)
	if b == nil || x.op == opAuth && b == s.origin && a.err == nil && weightOf(a.StatusCode) == 0 {
		return
	}
	b.hear(ctx, a.Response, a.err, took)
}

// authTimeout is how long a token endpoint may take for its header, unless it is
// known to be slow. It has nothing to look for, and its client waits for more than the
// token. One that asks a slow directory may need longer: the second try has the time
// that anything has.
const authTimeout = 4 * time.Second

func (x *exchange) authLimit() time.Duration {
	if x.patient {
		return headerTimeout
	}
	usual, least := usualTimes*x.s.hostStats.of(x.key()).header, authTimeout
	if c := oci.BehalfOf(x.ctx); usual > 0 && (x.s.origin.opens(c) || x.s.tokens.opens(c)) {
		least = tryFor // whoever asks next waits for the same token
	}
	return min(headerTimeout, max(least, usual))
}

// roundTrip sends x. What asks for a token has a time for its header of its own.
func (x *exchange) roundTrip() (*http.Response, error) {
	if x.op != opAuth {
		return x.via.RoundTrip(x.req)
	}
	clock := time.AfterFunc(x.authLimit(), func() { x.cancel(errNoHeader) })
	resp, err := x.via.RoundTrip(x.req)
	if !clock.Stop() && err != nil {
		err = errNoHeader
	}
	return resp, err
}

// limitText is the text of a 429 that has no Retry-After: GHCR says it there.
func (a *attempt) limitText() string {
	text, err := io.ReadAll(io.LimitReader(a.Body, classify.MaxErrorBody))
	_ = a.Body.Close() // what counts has been read
	if err != nil {
		text = nil // it only explains
	}
	a.Body = io.NopCloser(bytes.NewReader(text))
	return string(versions(a.Header, text)[0])
}

// judge decides by the status whether another try may help.
func (a *attempt) judge(now time.Time) {
	if a.StatusCode == http.StatusNonAuthoritativeInfo {
		a.StatusCode = http.StatusOK // of a proxy that changed something (RFC 9110, 15.3.4): the digest decides
	}
	text := ""
	if a.StatusCode == http.StatusTooManyRequests && a.Header.Get("Retry-After") == "" {
		text = a.limitText()
	}
	after := classify.RetryAfter(a.Header, text, now)
	said := a.Header.Get("Retry-After") != "" || after > 0
	switch a.StatusCode {
	case http.StatusTooManyRequests:
		// An empty pull limit refills in hours.
		if left := readLimit(a.Header, now).remaining; !said && (left != nil && *left == 0 || strings.Contains(text, "pull rate limit")) {
			return
		}
		if a.unsaid = !said; a.unsaid {
			after = unsaidPause
		}
		a.again = oci.RateLimited
	case http.StatusRequestTimeout:
		a.again = oci.Timeout
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		a.again = oci.UpstreamError
	default:
		if a.StatusCode >= 520 && a.StatusCode <= 530 { // Cloudflare about its origin
			a.again = oci.UpstreamError
		}
	}
	if a.after = after; after > patience {
		a.again = oci.Unclassified
	}
}

// drop ends an answer that nobody will read, so that its connection can be
// used again where that is cheap.
func (a *attempt) drop() {
	if a.err == nil && a.Response != nil {
		discard(a.Response)
	}
	a.Response = nil
}

func discard(r *http.Response) {
	_, _ = io.CopyN(io.Discard, r.Body, maxDrain) // whatever is left is cut off
	_ = r.Body.Close()
}

// backoff says how long to wait for the next try, and when there is none: with
// the breaker open the next one to find out is another call.
func (s *sender) backoff(ctx context.Context, b *breaker, retries uint64, last *attempt) retry.Backoff {
	waits := retry.WithMaxRetries(retries, retry.WithJitterPercent(50, retry.NewExponential(s.pause)))
	until := openUntil(ctx)
	unsaid := 0
	return retry.BackoffFunc(func() (time.Duration, bool) {
		wait, stop := waits.Next()
		if last.unsaid {
			unsaid++
		}
		if wait = max(wait, last.after); stop || unsaid > maxUnsaid || time.Now().Add(wait).After(until) {
			return 0, true
		}
		if b != nil && b.opens(oci.BehalfOf(ctx)) || !s.budgets.spend(ctx) {
			return 0, true
		}
		s.metrics.retry(s.label, last.again)
		return wait, false
	})
}

type callKey struct{}

// underWay is what all requests of one call have in common.
type underWay struct {
	ticket *limit.Ticket // counts them
	until  time.Time     // the header must be there
	// counted by the registry: Docker Hub counts each GET of a manifest.
	counted bool
}

// callOf is the call that ctx is of. Requests for challenges and tokens are of none: they
// are for all who wait, and each call that was admitted makes a few of them at most.
func callOf(ctx context.Context) underWay {
	c, _ := ctx.Value(callKey{}).(underWay)
	return c
}

// organisationOf is for whom what is sent with ctx is sent; empty: for nobody, or for all
// who wait.
func organisationOf(ctx context.Context) string {
	if t := callOf(ctx).ticket; t != nil {
		return t.Organisation()
	}
	return ""
}

// openUntil is until when the header must be there.
func openUntil(ctx context.Context) time.Time {
	until := callOf(ctx).until
	if until.IsZero() {
		until = time.Now().Add(openLimit)
	}
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		return d
	}
	return until
}
