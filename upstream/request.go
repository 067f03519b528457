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

	"berth/internal/descriptor"
	"berth/internal/limit"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/classify"
)

const (
	// How often a registry is asked for another redirect target when the one
	// that it named fails.
	maxTargets = 3
	// maxSmall bounds manifests and lists.
	maxSmall = oci.MaxManifest
	// smallLimit is how long the body of a manifest, list or error may take.
	smallLimit = 30 * time.Second
	// errorLimit is how long the text of an error may take: it only explains.
	errorLimit = 5 * time.Second
)

// call is one question to the registry.
type call struct {
	op     operation
	method string
	repo   string
	path   string // behind /v2/<repo>/
	query  string
	accept string
	rng    string // a Range header, or empty
	// explains: a HEAD about a right came before, and was not understood without this.
	explains bool
	// asked: the registry was sent it, since call began last.
	asked bool
}

func (c *call) request(r *Registry) *http.Request {
	u := *r.url
	u.Path, u.RawQuery = "/v2/"+c.repo+"/"+c.path, c.query
	req := r.newRequest(c.method, &u)
	req.Header.Set("Accept", c.accept)
	if c.rng != "" {
		req.Header.Set("Range", c.rng)
	}
	return req
}

// newRequest makes a request with our own headers and nothing else: what a
// client sent stays here.
func (r *Registry) newRequest(method string, u *url.URL) *http.Request {
	return &http.Request{
		Method: method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"User-Agent": {r.agent},
			// The digest is over the bytes as they are stored.
			"Accept-Encoding": {"identity"},
		},
	}
}

// via is the transport for what a call brings.
func (r *Registry) via(op operation) http.RoundTripper {
	if op == opBlob {
		return r.blob
	}
	return r.meta
}

// do asks. The answer may have any status but a redirect. Its body ends the
// request when it is closed. While the registry is in trouble a call is a try to find
// out whether it is back, and others wait for it: it has less time.
func (s *source) do(ctx context.Context, c *call) (*answer, error) {
	a, err := s.call(ctx, c, tryFor)
	if s.Troubled() {
		s.probes.after(s, c)
	}
	return a, err
}

// call asks once; troubled is how long that may take while the registry is in trouble.
func (s *source) call(ctx context.Context, c *call, troubled time.Duration) (a *answer, err error) {
	cred, err := s.id.Credential(ctx, c.repo)
	who := s.asker(cred, c.repo)
	if err != nil {
		who.principal = oci.Principal{Organisation: s.id.Organisation, Fingerprint: "unreadable"}
		return nil, who.fault(ctx, err)
	}
	behalf := oci.Behalf{Payer: who.payer, Principal: who.principal, Repo: c.repo, What: c.path}
	ctx = oci.OnBehalf(ctx, behalf)
	if err := s.mayAsk(ctx, c, cred, who); err != nil {
		return nil, err
	}
	c.asked = false
	defer func() {
		if inVain(c, err) {
			s.origin.unasked(behalf)
		}
	}()
	limit := openLimit
	if s.origin.opens(behalf) || s.tokens.opens(behalf) {
		limit = troubled
	}
	return s.within(ctx, c, limit, who, func(ctx context.Context) (*answer, error) {
		for targets := 1; ; targets++ {
			a, err := s.ask(ctx, c, cred, who)
			if targets == maxTargets || !failedTarget(a, err) || c.method == http.MethodHead || c.op.isList() || c.mindsRange(a) ||
				ctx.Err() != nil || !s.budgets.spend(ctx) {
				return a, err
			}
			s.log.DebugContext(ctx, "asking for another redirect target", "registry", s.name, "repo", c.repo)
			if a != nil {
				discard(a.Response)
			}
		}
	})
}

// inVain says whether a call has ended without a word of the registry about what it asked
// for, good or bad, since it came to no more than a refused token or a slot of ours: then it
// has not found out whether the registry is in trouble.
func inVain(c *call, err error) bool {
	if err == nil || c.asked {
		return false
	}
	switch e := oci.AsError(err); {
	case e.Class == oci.RateLimited:
		return true
	case e.Class == oci.Timeout, e.Class == oci.Unreachable, errors.Is(err, errRemembered):
		return false
	default:
		return e.Class != oci.UpstreamError || e.NotUnderstood
	}
}

// mindsRange says whether what a redirect target answered may be about the Range: then
// another one would say the same.
func (c *call) mindsRange(a *answer) bool {
	return c.rng != "" && a != nil && a.StatusCode < 500 && rangeStatus(a.StatusCode)
}

// wantsSignIn says whether an answer asks for a credential.
func wantsSignIn(a *answer) bool {
	return a.StatusCode == http.StatusUnauthorized && a.Header.Get("WWW-Authenticate") != ""
}

// failedTarget says whether it is a redirect target that failed, so that the
// registry may name a better one.
func failedTarget(a *answer, err error) bool {
	if err != nil {
		_, ok := errors.AsType[*targetFault](err)
		return ok && !descriptor.Exhausted(err) // another host would have no connection either
	}
	refused := a.StatusCode >= 400 && a.StatusCode != http.StatusRequestedRangeNotSatisfiable && a.StatusCode != http.StatusNotFound
	return a.target != nil && !wantsSignIn(a) && (refused || classify.IsPage(a.Header))
}

// ask asks as cred. A 401 may be about a token or a secret that was kept too long,
// or be the first that is heard of a challenge: then there is one more try.
func (s *source) ask(ctx context.Context, c *call, cred *credential.Credential, who asker) (*answer, error) {
	for again := false; ; again = true {
		a, more, err := s.askOnce(ctx, c, &cred, who)
		if err != nil || !more || again {
			return a, err
		}
		discard(a.Response)
		s.renew(ctx, &cred, c.repo)
	}
}

// askOnce says whether another try can help.
func (s *source) askOnce(ctx context.Context, c *call, cred **credential.Credential, who asker) (a *answer, more bool, err error) {
	req := c.request(s.Registry)
	if err = s.authorize(ctx, req, cred, c.repo); err != nil {
		s.limitedBy(ctx, *cred, err, false)
		return nil, false, s.named(err, c.repo)
	}
	leave, err := s.authority.Trial(ctx, req, *cred)
	if err != nil {
		return nil, false, s.named(err, c.repo)
	}
	taken := false
	defer func() { leave(taken) }()
	c.asked = true
	if a, err = s.follow(ctx, s.via(c.op), req, c.op, who); err != nil {
		return nil, false, err
	}
	a.cred, a.basic = *cred, strings.HasPrefix(req.Header.Get("Authorization"), "Basic ")
	if a.target == nil {
		s.accounts.read(*cred, a.Header)
	}
	taken = a.target != nil || a.StatusCode < 500 && a.StatusCode != http.StatusUnauthorized && !classify.IsPage(a.Header)
	return a, s.learn(ctx, a, req, c), nil
}

// authorize signs req as cred, once more where a new secret has taken the place of one
// that was refused.
func (s *source) authorize(ctx context.Context, req *http.Request, cred **credential.Credential, repo string) error {
	err := s.authority.Authorize(ctx, req, *cred, repo)
	if oci.ClassOf(err) == oci.Unauthorized && s.renew(ctx, cred, repo) {
		err = s.authority.Authorize(ctx, req, *cred, repo)
	}
	return err
}

// renew makes cred what the same account has now: a helper may have been asked since
// it was looked up.
func (s *source) renew(ctx context.Context, cred **credential.Credential, repo string) (renewed bool) {
	now, err := s.id.Credential(ctx, repo)
	if err != nil || now == *cred || now.Principal() != (*cred).Principal() {
		return false
	}
	*cred = now
	return true
}

// learn tells the token client how its credential was received, and returns
// whether another try can help. Redirect targets are not asked for their principal.
func (s *source) learn(ctx context.Context, a *answer, req *http.Request, c *call) (again bool) {
	switch {
	case a.target != nil, classify.Unexplained(a.StatusCode, a.Header):
	case a.StatusCode == http.StatusUnauthorized && req.Header.Get("Authorization") == "":
		return s.authority.Challenged(a.Header, s.id.Organisation, c.repo)
	case a.StatusCode == http.StatusUnauthorized && s.authority.Rechallenged(req, a.Header, s.id.Organisation, c.repo):
		return true
	case a.StatusCode == http.StatusUnauthorized && a.basic && s.stillTaken(ctx, a.cred, c):
		a.basic = false // it is about the repository
	case a.StatusCode == http.StatusUnauthorized:
		return s.authority.Rejected(req, a.cred, c.repo)
	case a.StatusCode == http.StatusForbidden && !classify.IsPage(a.Header):
		return s.authority.Outlived(req, a.cred, c.repo)
	case a.basic && a.StatusCode < 300 && !classify.IsPage(a.Header):
		s.authority.Accepted(a.cred)
		s.settlement.took(a.cred, c)
	}
	if a.target == nil && a.StatusCode < 300 && !classify.IsPage(a.Header) {
		s.accounts.taken(a.cred, c.op)
	}
	return false
}

// within runs f under a time limit for its header and makes the body of its
// answer one that minds itself. It waits for its turn first, and that wait does not
// count: it is ours, and the registry has nothing to do with it.
func (r *Registry) within(parent context.Context, c *call, most time.Duration, who asker, f func(context.Context) (*answer, error)) (*answer, error) {
	ticket, err := r.host.Admit(parent, limit.Call{
		Organisation: who.payer, Blob: c.op == opBlob, Proof: c.op == opHead || c.op == opProbe || c.explains,
		Past: func() bool { return oci.Insists(parent) }, Along: oci.AlongOf(parent), Before: oci.RightOf(parent),
	})
	if err != nil {
		return nil, who.fault(parent, err)
	}
	oci.Sent(parent)
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, callKey{}, underWay{
		ticket: ticket, until: time.Now().Add(most), counted: c.op == opManifest,
	}))
	clock := time.AfterFunc(most, func() { cancel(errNoHeader) })
	a, err := f(ctx)
	if !clock.Stop() && err == nil { // the clock ran out after the header came, and has ended the request
		_ = a.Body.Close()
		err = errNoHeader
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(context.Canceled)
		ticket.Close()
		return nil, who.fault(parent, err)
	}
	b := &body{
		from: a.Body, ctx: ctx, end: cancel, who: who, ticket: ticket,
		ended:   func() error { return context.Cause(ctx) },
		fault:   func(err error) error { return who.fault(parent, err) },
		resume:  func() error { return ticket.Resume(parent) },
		fetched: fetching{r.metrics.fetched.WithLabelValues(r.label), &r.metrics.fetchedBytes},
	}
	a.body = b.start()
	a.Body = b
	return a, nil
}

// slurp reads a small body to its end within a time, and closes it. over says
// that there is more than limit.
func (a *answer) slurp(limit int64, within time.Duration) (data []byte, over bool, err error) {
	a.body.stall = smallStall
	clock := time.AfterFunc(within, func() { a.body.end(errTooSlow) })
	defer clock.Stop()
	defer func() { _ = a.Body.Close() }() // everything that could fail has been read
	if a.ContentLength > limit {
		return nil, true, nil
	}
	data, err = readUpTo(a.Body, limit+1)
	if int64(len(data)) > limit {
		return data[:limit], true, nil
	}
	return data, false, err
}

// readUpTo reads limit bytes at most. A bytes.Buffer grows by doubling and leaves half as
// much garbage as io.ReadAll, which counts for megabytes.
func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(io.LimitReader(r, limit))
	return b.Bytes(), err
}

// asker names who asks in messages.
func (s *source) asker(cred *credential.Credential, repo string) asker {
	w := asker{registry: s.name, owner: s.owner, organisation: s.id.Organisation, payer: s.payer(), repo: repo, principal: cred.Principal()}
	if cred != nil {
		w.account = cred.Name
	}
	return w
}
