package diagnose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
	"berth/auth/token"
	"berth/upstream/classify"
	"berth/upstream/dialect"
)

// limit bounds a whole walk, below what the admin socket waits for.
const limit = 50 * time.Second

// Subject is what is diagnosed, as the configuration has it.
type Subject struct {
	// Registry is its name, Origin where it is, Type its kind.
	Registry string
	Origin   oci.Origin
	Type     dialect.Type
	// Organisation is who asks; empty: nobody.
	Organisation string
	// Credential is as whom; nil: as nobody.
	Credential *credential.Credential
	// Others are the organisation's accounts that are not for the repository.
	Others []string
	// Repository and Reference (a tag or a digest) are the image. Empty: only the
	// account is tested.
	Repository, Reference string
	// Platform is what the image should run on.
	Platform oci.Platform
	// Proxied says that another program connects in our place.
	Proxied bool
	// Connect makes a client of the registry of its own, as pulls have one. The Tap must
	// stand before its transport for challenges and tokens. Required.
	Connect func(*Tap, *upstream.Metrics) (*upstream.Registry, error)
}

// walk is a walk under way.
type walk struct {
	Subject

	report *Report
	tap    Tap
	counts *prometheus.Registry
	client *upstream.Registry
	scheme token.Challenge
}

// Run walks until a step fails, or to the end.
func Run(ctx context.Context, s Subject) *Report {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w := &walk{Subject: s, counts: prometheus.NewRegistry(), report: s.report()}
	w.report.add(StepName, OK, w.where(), 0)
	w.report.add(StepAccount, OK, w.as(), 0)
	client, err := s.Connect(&w.tap, upstream.NewMetrics(w.counts))
	if err != nil {
		w.report.fail(StepConnect, err, 0)
		return w.report
	}
	defer client.Close()
	w.client = client
	w.report.OK = w.challenge(ctx) && w.token(ctx) && w.rest(ctx)
	if w.report.OK && w.scheme.Scheme == "basic" && s.Credential != nil {
		w.report.Taken = true
	}
	if class := w.report.class; class.Refuses() && s.Credential != nil {
		w.report.Hints = hints(s.Type.Name, s.Registry, s.Credential)
	}
	return w.report
}

func (s *Subject) report() *Report {
	r := &Report{Organisation: s.Organisation, Registry: s.Registry, Repository: s.Repository, Reference: s.Reference, Steps: []Step{}}
	if s.Credential != nil {
		r.Account = s.Credential.Name
	}
	return r
}

// NotBegun is the report of a walk that failed before anybody was asked: at
// StepName or StepAccount.
func NotBegun(s Subject, step string, err error) *Report {
	w := &walk{Subject: s, report: s.report()}
	if step != StepName {
		w.report.add(StepName, OK, w.where(), 0)
	}
	w.report.fail(step, err, 0)
	return w.report
}

// rest is what comes after signing in.
func (w *walk) rest(ctx context.Context) bool {
	if w.Repository == "" {
		return w.login(ctx)
	}
	return w.image(ctx)
}

func (w *walk) where() string {
	what := w.Registry
	if w.Repository != "" {
		what = fmt.Sprintf("%s of %s, %s", w.Repository, w.Registry, w.Reference)
	}
	return fmt.Sprintf("%s, at %s (type %s)", what, w.Origin.URL(), w.Type.Name)
}

func (w *walk) as() string {
	switch {
	case w.Credential == nil && w.Organisation == "":
		return "no account: anonymous"
	case w.Credential == nil && len(w.Others) == 0:
		return fmt.Sprintf("organisation %s has no account for %s: anonymous", w.Organisation, w.Registry)
	case w.Credential == nil:
		return fmt.Sprintf("anonymous: the repositories of %s do not include %s", strings.Join(w.Others, ", "), w.Repository)
	}
	return w.Credential.String()
}

// challenge is everything up to how the registry wants to be signed in to.
func (w *walk) challenge(ctx context.Context) bool {
	c, err := w.client.Authority().Challenge(ctx)
	if !w.connection(err) {
		return false
	}
	status, page, took := w.tap.answered()
	if err != nil && c.Scheme == "" {
		w.report.fail(StepPing, err, took)
		return false
	}
	w.scheme = c
	if page {
		w.report.add(StepPing, Unknown, fmt.Sprintf("it answers with a web page (%d), as a login page or a proxy in between does", status), took)
	} else {
		w.report.add(StepPing, OK, fmt.Sprintf("it answers like a registry (%d)", status), took)
	}
	switch c.Scheme {
	case "":
		w.report.add(StepChallenge, OK, "none: no sign-in is asked for", 0)
	case "basic":
		w.report.add(StepChallenge, OK, "Basic: the account itself is sent with each request", 0)
	case "bearer":
		w.report.add(StepChallenge, OK, "Bearer: tokens are fetched", 0)
		return w.realm(c, err)
	default:
		w.report.fail(StepChallenge, &oci.Error{
			Class:   oci.UpstreamError,
			Message: fmt.Sprintf("%s wants to be signed in to in a way that is not known here (%q): only Basic and Bearer are; is its endpoint right?", w.Registry, c.Scheme),
		}, 0)
		return false
	}
	return true
}

// connection adds dns, connect and tls. err is what became of the request.
func (w *walk) connection(err error) bool {
	dns, connect, handshake := w.tap.phases()
	status, _, _ := w.tap.answered()
	secure := w.Origin.Scheme == "https"
	steps := []struct {
		name string
		phase
		without string // why there is none
	}{
		{StepDNS, dns, "the host is an address"},
		{StepConnect, connect, ""},
		{StepTLS, handshake, "plain HTTP"},
	}
	for i, s := range steps {
		reached := !s.begun.IsZero()
		switch {
		case status == 0 && err != nil && (s.phase.err != nil || reached && s.ended.IsZero() || !reached && i > 0 && (i < 2 || secure)):
			w.report.fail(s.name, err, s.took())
			return false
		case reached:
			w.report.add(s.name, OK, w.found(s.name, s.phase), s.took())
		case s.without == "" || w.Proxied:
			w.report.add(s.name, Skipped, "upstream.proxy does it", 0)
		default:
			w.report.add(s.name, Skipped, s.without, 0)
		}
	}
	return true
}

// found leaves addresses out where an organisation chose the host: it could
// read the node's own DNS with them.
func (w *walk) found(step string, p phase) string {
	if step != StepTLS && w.Origin.Owner != "" {
		return ""
	}
	return p.found
}

func (w *walk) realm(c token.Challenge, err error) bool {
	if err != nil {
		w.report.fail(StepRealm, err, 0)
		return false
	}
	detail := "its own"
	if u, err := url.Parse(c.Realm); err == nil {
		detail = u.Scheme + "://" + u.Host + u.Path
	}
	w.report.add(StepRealm, OK, detail, 0)
	return true
}

// token signs in for the repository, or without one just as the account.
func (w *walk) token(ctx context.Context) bool {
	begun := time.Now()
	_, err := w.authorized(ctx)
	took := time.Since(begun)
	switch {
	case err != nil:
		w.report.fail(StepToken, w.named(err), took)
		return false
	case w.scheme.Scheme != "bearer":
		w.report.add(StepToken, Skipped, "this registry has none", 0)
	case w.Credential == nil:
		w.report.add(StepToken, OK, "anonymous token", took)
	default:
		w.report.Taken = true
		w.report.add(StepToken, OK, w.account()+" got one", took)
	}
	return true
}

// authorized is a request for /v2/ with what pulls would carry.
func (w *walk) authorized(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.Origin.URL()+"/v2/", nil)
	if err != nil {
		return nil, err
	}
	return req, w.client.Authority().Authorize(ctx, req, w.Credential, w.Repository)
}

// account names the one that is asked with.
func (w *walk) account() string {
	return credential.Called(w.Credential.Organisation, w.Credential.Name, w.Credential.Registry)
}

// login asks for /v2/ as the account, as docker login does.
func (w *walk) login(ctx context.Context) bool {
	req, err := w.authorized(ctx)
	if err != nil {
		w.report.fail(StepLogin, err, 0)
		return false
	}
	begun := time.Now()
	resp, err := w.tap.RoundTrip(req)
	took := time.Since(begun)
	if err != nil {
		w.report.fail(StepLogin, classify.Failure(w.Registry, "", err), took)
		return false
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode < 300 && w.Credential == nil:
		w.report.add(StepLogin, OK, "anyone may ask without an account; name an image to see whether it is public", took)
	case resp.StatusCode < 300:
		w.report.add(StepLogin, OK, w.account()+" is taken; name an image to see whether it may read it", took)
	default:
		w.report.fail(StepLogin, w.refusedLogin(resp), took)
		return false
	}
	return true
}

func (w *walk) refusedLogin(resp *http.Response) error {
	return w.named(classify.Answer(classify.Response{
		Registry: w.Registry, Type: w.Type, Credential: w.Credential, Basic: w.scheme.Scheme == "basic",
		Repo: "everything", Status: resp.StatusCode, Header: resp.Header, Now: time.Now(),
	}))
}

// named puts the organisation into a refusal for the want of an account.
func (w *walk) named(err error) error {
	e, ok := errors.AsType[*oci.Error](err)
	if !ok || e.Class != oci.NoCredential || w.Organisation == "" || w.Repository == "" {
		return err
	}
	return classify.Uncovered(w.Organisation, w.Registry, w.Repository, w.Others, w.Credential != nil)
}
