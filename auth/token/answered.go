package token

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"berth/auth/credential"
	"berth/internal/secret"
	"berth/oci"
	"berth/upstream/classify"
)

// failed draws the conclusions from a failed exchange.
func (a *Client) failed(err error, c Challenge, cred *credential.Credential, repo string) {
	e := oci.AsError(err)
	switch {
	case errors.Is(e.Err, errRealm):
		a.warnRealm(c, e)
		a.probe.suspect()
	case e.Class == oci.Unauthorized:
		a.refuse(cred, e)
	case e.Class == oci.UpstreamError || e.Class == oci.Unreachable:
		a.probe.suspect() // the token endpoint may have moved
		a.kept.challenges.Remove(repoKey{a, repo})
	}
}

// Rejected says that the registry answered 401 to req, which Authorize had
// prepared for cred and repo. The token is forgotten. It returns whether
// authorising and sending once more can help: not after a token that was granted
// a moment ago for this very request, and not after Basic credentials, which then
// cool down, unless they may have expired: then the next look-up has others.
func (a *Client) Rejected(req *http.Request, cred *credential.Credential, repo string) (again bool) {
	a.probe.suspect()
	scheme, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	switch {
	case scheme == "Bearer":
		again = a.dropToken(secret.New(value), cred, repo)
	case scheme == "Basic" && cred != nil:
		again = a.refuse(cred, classify.Refused(a.registry, cred, http.StatusUnauthorized, classify.Text{}))
	}
	if !again { // else the second try would go without what this repository wants
		a.kept.challenges.Remove(repoKey{a, repo})
	}
	return again
}

// justNow is how old a token that was never used before may be for a rejection
// to mean "no access" rather than "no longer".
const justNow = 2 * time.Second

func (a *Client) dropToken(used secret.Text, cred *credential.Credential, repo string) (again bool) {
	c := a.lastFor(repo)
	if c == nil {
		return true
	}
	key := a.tokenKey(*c, cred, repo)
	t, ok := a.kept.tokens.Get(key)
	if !ok || !t.text.Equal(used) {
		return true // somebody else has dropped or replaced it
	}
	a.kept.tokens.Remove(key)
	return t.kept.Load() || a.now().Sub(t.granted) >= justNow
}

// outlives is how old a token must be for a 403 to be perhaps about its age.
const outlives = 10 * time.Second

// Outlived says that the registry answered 403 to req, which Authorize had prepared for
// cred and repo: some say so to a token that ends before it had said, and a client that
// pulls once has none of that age. It returns whether another token is worth a try; this
// one is forgotten then.
func (a *Client) Outlived(req *http.Request, cred *credential.Credential, repo string) (again bool) {
	scheme, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	c := a.lastFor(repo)
	if scheme != "Bearer" || c == nil {
		return false
	}
	key := a.tokenKey(*c, cred, repo)
	t, ok := a.kept.tokens.Get(key)
	if !ok || !t.text.Equal(secret.New(value)) || a.now().Sub(t.granted) < outlives {
		return false
	}
	a.kept.tokens.Remove(key)
	return true
}

// Refused says that the registry answered something that Classify calls
// Unauthorized: ECR says so with a 403 once a password has expired. The
// credential cools down. Errors of any other class change nothing.
func (a *Client) Refused(cred *credential.Credential, err error) {
	if e, ok := errors.AsType[*oci.Error](err); ok && e.Class == oci.Unauthorized {
		a.refuse(cred, e)
	}
}

// Accepted says that the registry took cred: whatever was held against it is
// forgotten. A token that is granted counts by itself; call it for Basic.
func (a *Client) Accepted(cred *credential.Credential) {
	if cred == nil {
		return
	}
	a.metrics.CredentialOK(cred, true)
	if a.standings.accept(cred) {
		a.metrics.CoolDown(cred, time.Time{})
		a.log.Info("a credential is taken again", slog.Any("credential", cred))
	}
}

// refuse remembers that cred is no good, or says that it may only have expired. This
// node's own credential is one like any other; whoever asks as nobody has none, and
// is never held back.
func (a *Client) refuse(cred *credential.Credential, e *oci.Error) (expired bool) {
	if cred == nil {
		return false
	}
	cause, ok := errors.AsType[*classify.RefusedCause](e.Err)
	if !ok {
		return false
	}
	if cred.Expired() {
		a.log.Info("the registry refused what a credential helper had said; it is asked again", slog.Any("credential", cred), slog.Any("error", e))
		return true
	}
	a.metrics.CredentialOK(cred, false)
	if r, news := a.standings.refuse(cred, cause); news {
		a.metrics.CoolDown(cred, r.until)
		a.log.Warn("the registry refused a credential", slog.Any("credential", cred), slog.Time("left_alone_until", r.until), slog.Any("error", e))
	}
	return false
}

// Refusal is what is held against cred, as Authorize would say it; nil: nothing. It
// asks nobody.
func (a *Client) Refusal(cred *credential.Credential) *oci.Error {
	if cred == nil {
		return nil
	}
	if r := a.standings.refusal(cred.Version); r != nil {
		return a.fromMemory(r, cred)
	}
	return nil
}

// fromMemory is the refusal again, in the words of whoever asks now: another
// organisation may use the same secret.
func (a *Client) fromMemory(r *refusal, cred *credential.Credential) *oci.Error {
	now := a.now()
	e := classify.RefusedAs(a.registry, cred, &classify.RefusedCause{Status: r.cause.Status, Expired: r.cause.Expired, Said: errRemembered})
	e.RetryAfter = r.until.Sub(now)
	e.Detail = fmt.Sprintf("asked %s ago; asked again in %s", classify.Span(now.Sub(r.at)), classify.Span(e.RetryAfter))
	return e
}

// errRemembered is the cause of an error that cost no request.
var errRemembered = errors.New("remembered from an earlier request")
