package classify

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// The values of Error.Detail for RateLimited where a registry has two limits.
const (
	// PullLimit stops GETs of manifests with this account (or from this
	// address without one). HEADs and blobs go on.
	PullLimit = "pull limit"
	// AbuseLimit stops everything from this address, whatever the account.
	AbuseLimit = "abuse limit"
)

// Response is an answer of a registry that is not what was asked for.
type Response struct {
	// Registry is the name for messages, Type the kind of registry.
	Registry string
	Type     dialect.Type
	// Credential is as whom it was asked; nil: as nobody.
	Credential *credential.Credential
	// Basic says that the credential itself was sent, and not a token.
	Basic bool
	// Repo is which repository was asked about, and Kind what in it; 0: a list.
	Repo string
	Kind oci.Kind
	// Status, Header and Body are the answer. Of the body MaxErrorBody bytes are
	// enough; HEAD has none.
	Status int
	Header http.Header
	Body   []byte
	// Now is when it came. It matters for dates in Retry-After only.
	Now time.Time
}

// Answer says what an answer of a registry (not of a token endpoint) means.
// It never returns nil. The message is complete but for the request id. What the
// registry said itself is cleaned and goes into Err, for the log.
//
// A 401 must have been tried once more with a new token before: here it is final.
func Answer(a Response) *oci.Error {
	f := Read(a.Header, a.Body)
	e := a.classify(f)
	e.NotUnderstood = a.notUnderstood(f, e.Class)
	if e.Err == nil {
		e.Err = f.Cause(a.Registry, a.Status, a.Credential)
	}
	if f.Page && e.Detail == "" {
		e.Detail = "answered by a web page, perhaps of a proxy or firewall in between"
	}
	return e
}

// notUnderstood says that this is neither yes nor no. A page is none, whatever its
// status: a firewall or a login in between says nothing about rights. A 401 with a
// challenge is no page in that sense: proxies that guard a registry by a password
// write one for people beside it.
func (a Response) notUnderstood(f Text, class oci.Class) bool {
	if !MayBeRefusal(a.Status) {
		return false
	}
	return f.Page && !challenges(a.Status, a.Header) || class == oci.UpstreamError
}

// MayBeRefusal says whether an answer with status that is not understood may have been
// meant as a no. Trouble, and too many requests, are what they are. 511 is of whoever stands before the network (RFC 6585, 6), and not
// of a registry in trouble.
func MayBeRefusal(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	case http.StatusNetworkAuthenticationRequired:
		return true
	}
	return status < 500 || status >= 600
}

// Unexplained says that an answer is a 401 which no registry gives: a page without
// the challenge that every 401 must carry (RFC 9110, 15.5.2). It says nothing about
// the credential that was sent.
func Unexplained(status int, header http.Header) bool {
	return status == http.StatusUnauthorized && IsPage(header) && !challenges(status, header)
}

func challenges(status int, header http.Header) bool {
	return status == http.StatusUnauthorized && header.Get("WWW-Authenticate") != ""
}

func (a Response) classify(f Text) *oci.Error {
	switch a.Status {
	case http.StatusUnauthorized:
		return a.unauthorized(f)
	case http.StatusForbidden, http.StatusPaymentRequired, http.StatusUnavailableForLegalReasons:
		return a.Forbidden(f)
	case http.StatusNotFound, http.StatusGone:
		return a.notFound(f)
	case http.StatusMethodNotAllowed:
		// Quay: a namespace that was disabled is code DENIED with status 405. A
		// 405 that reached containerd would make it try a GET.
		if f.Code == string(oci.CodeDenied) {
			return a.Forbidden(f)
		}
	case http.StatusBadRequest:
		if e := a.badRequest(f); e != nil {
			return e
		}
	case http.StatusRequestTimeout:
		return a.busy(oci.Timeout, f, fmt.Sprintf("%s waited too long for the request: try again", a.Registry))
	case http.StatusTooManyRequests:
		return LimitedBy(a.Registry, a.Type, a.Credential, a.Header, f, a.Now)
	}
	return a.busy(oci.UpstreamError, f, Trouble(a.Registry, a.Status))
}

// Trouble says that a status makes no sense or is the registry's own fault.
func Trouble(registry string, status int) string {
	if status >= 500 {
		return fmt.Sprintf("%s is in trouble (%d): try again", registry, status)
	}
	return fmt.Sprintf("%s answered with an unexpected status (%d): try again, and check that its endpoint is a registry", registry, status)
}

func (a Response) busy(class oci.Class, f Text, message string) *oci.Error {
	return &oci.Error{Class: class, Message: message, RetryAfter: RetryAfter(a.Header, f.Message, a.Now)}
}

// unauthorized: with Basic the credential itself was looked at and refused. A
// token was granted on the strength of the credential, so a 401 to it means
// that this repository may not be read; Docker Hub and Quay answer so too where
// there is no such repository, to hide which exist.
func (a Response) unauthorized(f Text) *oci.Error {
	switch {
	case a.Credential.Shared() && !a.Basic, a.Credential == nil:
		return notPublic(a.Credential, a.Registry, a.Repo)
	case a.Basic:
		return Refused(a.Registry, a.Credential, a.Status, f)
	}
	return a.denied()
}

// Forbidden says what a 403 means, and what says the same.
func (a Response) Forbidden(f Text) *oci.Error {
	switch {
	case a.Credential == nil:
		return NoCredential("", a.Registry, a.Repo)
	// Where a token was sent, that was granted on the strength of the credential, and the
	// words may be another registry's, passed on about one repository.
	case a.Basic && f.SaysExpired():
		return Refused(a.Registry, a.Credential, a.Status, f)
	case a.Credential.Shared():
		return notPublic(a.Credential, a.Registry, a.Repo)
	// GHCR: "permission_denied: read_package"
	case f.Says("read_package"):
		return deniedBecause(a, "its token has no right to read packages (read:packages): make one that has, and pull again")
	}
	return a.denied()
}

func (a Response) denied() *oci.Error {
	return deniedBecause(a, fmt.Sprintf("it may not read %s, or there is no such repository: check the name, or give the account read access, and pull again", a.Repo))
}

func called(cred *credential.Credential) string {
	return credential.Called(cred.Organisation, cred.Name, cred.Registry)
}

func deniedBecause(a Response, why string) *oci.Error {
	return &oci.Error{
		Class:   oci.Denied,
		Message: fmt.Sprintf("%s: %s denied %s (%d): %s", credential.Whose(a.Credential.Organisation), a.Registry, called(a.Credential), a.Status, why),
	}
}

// notFound tells by the code whether the whole repository is unknown: that
// denies access to it, any other 404 does not. Quay says TAG_EXPIRED for a tag
// that it removed by itself.
func (a Response) notFound(f Text) *oci.Error {
	e := &oci.Error{Class: oci.NotFound}
	switch {
	case f.Code == string(oci.CodeNameUnknown):
		e.Code = oci.CodeNameUnknown
		e.Message = fmt.Sprintf("%s knows no repository %s: check the name", a.Registry, a.Repo)
	case f.Code == "TAG_EXPIRED":
		e.Message = fmt.Sprintf("the tag of %s has expired at %s: push it again, or pull another", a.Repo, a.Registry)
	case a.Kind == oci.Blob:
		e.Code = oci.CodeBlobUnknown
		e.Message = fmt.Sprintf("%s has no such blob in %s", a.Registry, a.Repo)
	default:
		e.Message = fmt.Sprintf("%s has no such tag or digest in %s: check the name", a.Registry, a.Repo)
	}
	return e
}

// badRequest is for the codes by which a registry says that such a thing cannot
// exist there.
func (a Response) badRequest(f Text) *oci.Error {
	switch f.Code {
	case "NAME_INVALID", "NAME_UNKNOWN":
		f.Code = string(oci.CodeNameUnknown)
	case "TAG_INVALID", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "DIGEST_INVALID", "BLOB_UNKNOWN":
	default:
		return nil
	}
	return a.notFound(f)
}

// NoCredential says that repo is not public and that organisation has nothing to
// show. The shared principal does not know which organisation it asks for, so that
// whoever answers one puts it in: until then organisation is empty.
func NoCredential(organisation, registry, repo string) *oci.Error {
	return Uncovered(organisation, registry, repo, nil, false)
}

// Uncovered is the error for a repository that none of the organisation's accounts is for:
// accounts are those for other repositories of the registry. ofNode says that this node
// has an account of its own there, which was shown in vain.
func Uncovered(organisation, registry, repo string, accounts []string, ofNode bool) *oci.Error {
	e := &oci.Error{Class: oci.NoCredential}
	private := "is not public, or does not exist"
	if ofNode {
		private += ", and this node's account may not read it either"
	}
	switch {
	case len(accounts) > 0:
		e.Message = fmt.Sprintf("organisation %s: account %q for %s does not cover %s, which %s: add it to the account's repositories, or connect an account that covers it, and pull again",
			organisation, strings.Join(accounts, ", "), registry, repo, private)
	case ofNode && organisation != "":
		e.Message = fmt.Sprintf("organisation %s has no account for %s, and %s %s: check the name, or connect an account that may, and pull again", organisation, registry, repo, private)
	case ofNode:
		e.Message = fmt.Sprintf("%s of %s %s: check the name, or connect an account that may, and pull again", repo, registry, private)
	case organisation == "":
		e.Message = fmt.Sprintf("%s of %s %s, and no account for %s is configured for this caller: add one to credentials and pull again", repo, registry, private, registry)
	default:
		e.Message = fmt.Sprintf("organisation %s has no account for %s, and %s is not public or does not exist: add one to its credentials and pull again", organisation, registry, repo)
	}
	return e
}

// notPublic is the error for those without an account of their own. cred is this node's
// account, where that was shown: then nobody should be told that there is none.
func notPublic(cred *credential.Credential, registry, repo string) *oci.Error {
	return Uncovered("", registry, repo, nil, cred != nil)
}

// RefusedCause is why a credential is no good: it is the cause of an error of
// class Unauthorized.
type RefusedCause struct {
	Status  int
	Expired bool // the registry said that it has expired
	Said    error
}

func (c *RefusedCause) Error() string { return c.Said.Error() }

// Refused says that the credential itself is no good. Renewing it is what helps
// in nearly every case.
func Refused(registry string, cred *credential.Credential, status int, f Text) *oci.Error {
	return RefusedAs(registry, cred, &RefusedCause{Status: status, Expired: f.Says("expired"), Said: f.Cause(registry, status, cred)})
}

// RefusedAs says the same of a refusal that is known already.
func RefusedAs(registry string, cred *credential.Credential, c *RefusedCause) *oci.Error {
	why := "its token has expired or the user name is wrong"
	if c.Expired {
		why = "its token has expired"
	}
	return &oci.Error{
		Class:   oci.Unauthorized,
		Message: fmt.Sprintf("%s: %s refused %s (%d): %s; renew it and pull again", credential.Whose(cred.Organisation), registry, called(cred), c.Status, why),
		Err:     c,
	}
}

// LimitedBy says what a 429 means.
func LimitedBy(registry string, t dialect.Type, cred *credential.Credential, header http.Header, f Text, now time.Time) *oci.Error {
	detail := ""
	switch {
	case noPullsLeft(header), t.TwoLimits && (f.Code == string(oci.CodeTooManyRequests) || f.Says("pull rate limit")):
		detail = PullLimit
	case t.TwoLimits:
		detail = AbuseLimit
	}
	return RateLimited(registry, detail, cred, RetryAfter(header, f.Message, now))
}

// noPullsLeft says that a limit like Docker Hub's is used up, also in an answer
// to HEAD, which has no text.
func noPullsLeft(header http.Header) bool {
	left, _, _ := strings.Cut(header.Get("Ratelimit-Remaining"), ";")
	return strings.TrimSpace(left) == "0"
}

// RateLimited says that a registry limits cred for another wait (0: it did not
// say for how long). detail is PullLimit or AbuseLimit, or empty where the
// registry has but one.
func RateLimited(registry, detail string, cred *credential.Credential, wait time.Duration) *oci.Error {
	e := &oci.Error{Class: oci.RateLimited, Detail: detail, RetryAfter: wait}
	refills := ""
	if wait >= time.Second {
		refills = "; it refills in " + Span(wait)
	}
	switch {
	case detail == AbuseLimit:
		again := "try again later"
		if wait >= time.Second {
			again = "try again in " + Span(wait)
		}
		e.Message = fmt.Sprintf("%s is rate-limiting this node's IP address; %s", registry, again)
	case cred == nil:
		e.Message = fmt.Sprintf("%s limits this node's address (no account connected)%s: connect an account for it, or wait", registry, refills)
	default:
		e.Message = fmt.Sprintf("%s: %s limits %s%s: wait, or raise its limit there", credential.Whose(cred.Organisation), registry, called(cred), refills)
	}
	return e
}

// Span is a wait as a person says it, rounded up.
func Span(d time.Duration) string {
	switch {
	case d <= 90*time.Second:
		return fmt.Sprintf("%d s", ceil(d, time.Second))
	case d <= 90*time.Minute:
		return fmt.Sprintf("%d min", ceil(d, time.Minute))
	}
	return fmt.Sprintf("%d h", ceil(d, time.Hour))
}

func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }

// Cause is what goes to the log: status, code and the registry's cleaned words.
func (f Text) Cause(registry string, status int, cred *credential.Credential) error {
	words := []string{fmt.Sprintf("%s answered %d", registry, status)}
	if f.Code != "" {
		words = append(words, f.Code)
	}
	if s := scrub(f.Message, cred); s != "" {
		words = append(words, s)
	}
	if f.Page {
		words = append(words, "a web page")
	}
	return errors.New(strings.Join(words, ": "))
}
