package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"berth/auth/credential"
	"berth/auth/token"
)

const (
	maxRedirects = 5
	maxLocation  = 8 << 10
)

// answer is what following a request came to.
type answer struct {
	*http.Response
	body *body
	// cred is as whom the registry was asked; basic says that it was sent as it
	// is, and not a token for it.
	cred  *credential.Credential
	basic bool
	// asked is when the registry itself was asked. What came after it, at other
	// hosts, proves nothing by itself.
	asked time.Time
	// target is where the answer comes from, when the way left the origin. The
	// way back to the origin does not undo that.
	target *url.URL
}

// errAstray marks a redirect to where this node does not follow.
var errAstray = errors.New("a redirect that is not followed")

// targetFault is an error at a redirect target: the registry itself is fine
// and may name a better target when asked again (Docker Hub picks one of
// several CDNs for each request).
type targetFault struct {
	host string
	err  error
}

func (t *targetFault) Error() string { return t.err.Error() }
func (t *targetFault) Unwrap() error { return t.err }

// follow sends req and walks the redirects in the answer. net/http would send
// the Authorization to sub-domains and other ports of the first host; here it
// goes to the origin alone, and never again once the way has left it.
func (r *Registry) follow(ctx context.Context, via http.RoundTripper, req *http.Request, op operation, who asker) (*answer, error) {
	retries := uint64(maxRetries)
	if op == opHead {
		retries = headRetries
	}
	got, err := r.send(ctx, via, req, op, retries)
	if err != nil {
		return nil, err
	}
	a := &answer{Response: got.Response, asked: got.sent}
	if op.isList() && a.StatusCode == http.StatusSeeOther {
		return a, nil // RFC 9110, 15.4.4: what is there is something else
	}
	return r.walk(ctx, via, a, req, who)
}

// walk follows the redirects from a, the answer to req, to their end; those of a
// HEAD only as long as they stay at the origin.
func (r *Registry) walk(ctx context.Context, via http.RoundTripper, a *answer, req *http.Request, who asker) (*answer, error) {
	for hops := 0; isRedirect(a.StatusCode); hops++ {
		location := a.Header.Get("Location")
		discard(a.Response)
		if hops == maxRedirects {
			e := who.notUnderstood("redirected more than %d times", maxRedirects)
			e.Err = errAstray // it will do so again
			return nil, e
		}
		to, err := mayFollow(req.URL, location)
		if err != nil {
			e := who.notUnderstood("redirected to where this node does not follow: %s", err)
			e.Err = fmt.Errorf("%w: %w", errAstray, err)
			return nil, e
		}
		if a.target != nil || !token.SameOrigin(r.url, to) {
			a.target = to
		}
		if a.target != nil && req.Method == http.MethodHead {
			return a, nil // such URLs are signed for GET, and answer a HEAD with 403
		}
		req = redirected(req, to, a.target == nil)
		got, err := r.send(ctx, via, req, opRedirect, targetRetries)
		if err != nil {
			return nil, &targetFault{to.Host, err}
		}
		a.Response = got.Response
	}
	return a, nil
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// mayFollow reads a Location. Its errors name at most a scheme and a host: the
// query of such a URL is often a signature that opens the object to anyone.
func mayFollow(from *url.URL, location string) (*url.URL, error) {
	if location == "" || len(location) > maxLocation {
		return nil, errors.New("there is no usable Location")
	}
	to, err := from.Parse(location)
	if err != nil { // err quotes the URL
		return nil, errors.New("the Location cannot be read")
	}
	to.Fragment, to.RawFragment = "", ""
	return to, mayLead(from, to)
}

// mayLead says why a redirect from one URL to another is not followed at all; nil: it is.
// Whether credentials go along is for token.SameOrigin to say, and which addresses may be
// dialled for the dialer.
func mayLead(from, to *url.URL) error {
	switch {
	case to.Scheme != "https" && to.Scheme != "http" || to.Opaque != "":
		return errors.New("the redirect is neither to https nor to http")
	case to.User != nil:
		return errors.New("the redirect carries a user name")
	case to.Hostname() == "":
		return errors.New("the redirect names no host")
	case to.Scheme == "http" && from.Scheme != "http":
		return errors.New("the redirect leads from https to http")
	}
	return nil
}

// redirected is req for another URL: our own headers stay, the credential only
// where it belongs.
func redirected(req *http.Request, to *url.URL, authorised bool) *http.Request {
	next := &http.Request{Method: req.Method, URL: to, Host: to.Host, Header: req.Header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if !authorised {
		next.Header.Del("Authorization")
	}
	return next
}
