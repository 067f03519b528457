package token

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"berth/oci"

	"berth/internal/secret"

	"berth/auth/credential"
	"berth/upstream/classify"
	"berth/upstream/dialect"
)

const (
	maxTokenBody = 64 << 10
	// maxToken bounds a token: registries refuse headers that are longer, and the
	// longest that they give (Azure's, with many groups in it) has some 6 KiB.
	maxToken = 16 << 10
	// A token without expires_in lives 60 s (distribution spec, token.md); Quay
	// and ACR leave it out.
	defaultLife = 60 * time.Second
	maxLife     = 24 * time.Hour
)

// bearerToken is a token and when it goes.
type bearerToken struct {
	text           secret.Text
	granted        time.Time
	renew, expires time.Time
	// kept says that it was handed out again after its first use; all copies
	// of the token share it.
	kept *atomic.Bool
}

// exchange gets tokens from token endpoints. It does by itself what
// transport.Exchange of go-containerregistry does too, for what a long-running
// proxy needs beyond it: that one hides the headers of a refusal (Retry-After),
// puts the body of a bad answer into its error, follows redirects, and refuses
// token endpoints at private addresses even when the operator has named them.
//
// Only GET is spoken. POST is for identity tokens, which are refused where they
// are configured; many token endpoints have no POST at all.
type exchange struct {
	registry  string
	kind      dialect.Type
	realms    *Realms
	send      http.RoundTripper
	now       func() time.Time
	userAgent string
}

// grant gets a token for pulling repo as cred, who may be nobody. Errors are
// *oci.Error; one of class Unauthorized is about the credential, whatever repo is.
// Without a repo it is a token that only says that cred is good, as docker login
// asks for.
func (x *exchange) grant(ctx context.Context, c Challenge, cred *credential.Credential, repo string) (bearerToken, error) {
	scope := ""
	if repo != "" {
		scope = "repository:" + repo + ":pull"
	}
	t, said, err := x.get(ctx, c, cred, repo, scope)
	if cred == nil || err == nil {
		return t, err
	}
	login := said
	if scope != "" {
		if !x.mayBeEither(said) {
			return t, err
		}
		login = x.login(ctx, c, cred, said)
	}
	if login.status == http.StatusUnauthorized || login.status == http.StatusForbidden && !login.Page {
		err = classify.Refused(x.registry, cred, said.status, said.Text)
	}
	return t, err
}

// mayBeEither says whether a refusal may be about the credential or about the scope. Token
// endpoints say 401 to both; and held against the credential, the name of one repository
// would stop all others.
func (x *exchange) mayBeEither(said answered) bool {
	switch said.status {
	case http.StatusUnauthorized:
		return true
	case http.StatusForbidden:
		return !said.Page && !said.Says("read_package") && (x.kind.ForbiddenMayBeCredential || said.Says("expired"))
	}
	return false
}

// loginFor is how long login may take: the refusal that it is about is there already.
const loginFor = 3 * time.Second

// login finds out whether the credential is what an endpoint refused when it said no: docker
// login asks without a scope. An endpoint that gives nobody a token without one settles
// nothing, and the credential is all that there is to blame. After silence, trouble or a
// limit it is not blamed, as long as it is not known: that would stop all that it may pull.
func (x *exchange) login(ctx context.Context, c Challenge, cred *credential.Credential, no answered) answered {
	ctx, cancel := context.WithTimeout(ctx, loginFor)
	defer cancel()
	_, said, _ := x.get(ctx, c, cred, "", "")
	switch said.status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnprocessableEntity:
		return no
	}
	return said
}

// answered is what a token endpoint said; the zero value: nothing.
type answered struct {
	classify.Text

	status int
}

// get asks the realm of c for a token with scope, "" for none.
func (x *exchange) get(ctx context.Context, c Challenge, cred *credential.Credential, repo, scope string) (bearerToken, answered, error) {
	realm, err := x.realms.Check(c.Realm)
	if err != nil {
		return bearerToken{}, answered{}, x.foreignRealm(err)
	}
	req, err := x.request(ctx, realm, c.Service, scope, cred)
	if err != nil {
		return bearerToken{}, answered{}, fmt.Errorf("asking for a token: %w", err)
	}
	resp, body, err := x.ask(req) //nolint:bodyclose // it has been read and closed
	if err != nil {
		return bearerToken{}, answered{}, classify.Failure(x.registry, realm.Host, err)
	}
	if resp.StatusCode/100 != 2 {
		said := answered{Text: classify.Read(resp.Header, body), status: resp.StatusCode}
		return bearerToken{}, said, x.refusal(resp, said.Text, cred, repo)
	}
	t, err := x.read(body)
	return t, answered{status: resp.StatusCode}, err
}

// maxMoves is how often a token endpoint may send us on.
const maxMoves = 3

// ask sends req, and again where it has moved: a slash that is missing, another path. Not
// a client's Do, since the request may carry credentials: it goes only to where a realm
// might lead as well.
func (x *exchange) ask(req *http.Request) (*http.Response, []byte, error) {
	for moves := 0; ; moves++ {
		resp, err := x.send.RoundTrip(req)
		if err != nil {
			return nil, nil, err
		}
		body, err := readSome(resp.Body, maxTokenBody+1)
		if err != nil || resp.StatusCode/100 != 3 || moves == maxMoves {
			return resp, body, err
		}
		to := x.moved(req.URL, resp.Header.Get("Location"))
		if to == nil {
			return resp, body, nil
		}
		req = req.Clone(req.Context())
		req.URL, req.Host = to, ""
	}
}

// moved is where a redirect leads; nil: to nowhere that may be asked.
func (x *exchange) moved(from *url.URL, location string) *url.URL {
	to, err := from.Parse(location)
	if err != nil || to.String() == from.String() || !x.realms.allows(to.String()) {
		return nil
	}
	return to
}

func (x *exchange) foreignRealm(err error) *oci.Error {
	return &oci.Error{
		Class: oci.UpstreamError, NotUnderstood: true,
		Message: oci.OneLine(fmt.Sprintf("%s wants tokens fetched from a place that is not its own, so nothing was sent there: the realm %s; if it is right, whoever runs the node adds it to token_endpoints",
			x.registry, err), 600),
		Err: errRealm,
	}
}

// errRealm marks the error about a realm that is not allowed.
var errRealm = errors.New("the realm is not allowed")

func (x *exchange) request(ctx context.Context, realm *url.URL, service, scope string, cred *credential.Credential) (*http.Request, error) {
	q := realm.Query()
	if service != "" {
		q.Set("service", service)
	}
	if scope != "" {
		q.Set("scope", scope)
	}
	u := *realm
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("the realm makes no request")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", x.userAgent)
	if cred != nil {
		req.SetBasicAuth(cred.UserAndPassword())
	}
	return req, nil
}

// read takes the token from an answer. What is in the answer is in no error.
func (x *exchange) read(body []byte) (bearerToken, error) {
	nonsense := func(why string) (bearerToken, error) {
		return bearerToken{}, &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: fmt.Sprintf("the token endpoint of %s answered with nonsense (%s): try again", x.registry, why)}
	}
	if len(body) > maxTokenBody {
		return nonsense("too long")
	}
	t, err := oci.DecodeJSON[tokenAnswer](bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))) // a BOM is no JSON
	switch {
	case errors.Is(err, oci.ErrAmbiguousJSON):
		return nonsense(err.Error())
	case err != nil:
		return nonsense("no JSON")
	}
	text := t.Token
	if text == "" {
		text = t.AccessToken
	}
	switch {
	case text == "":
		return nonsense("no token in it")
	case len(text) > maxToken:
		return nonsense("a token of more than 16 KiB")
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nonsense("a token that fits no header")
	}
	return newBearerToken(text, seconds(t.ExpiresIn), x.now()), nil
}

// tokenAnswer is what counts of the answer of a token endpoint. Whatever else is in it
// may have any form (issued_at is a number at some), and so may the life of the token.
type tokenAnswer struct {
	Token       string          `json:"token"`
	AccessToken string          `json:"access_token"`
	ExpiresIn   json.RawMessage `json:"expires_in"`
}

// seconds reads a number, with a fraction or not and as a string or not; 0: it is none
// that makes sense, so that the token lives for as long as one that does not say.
func seconds(raw json.RawMessage) int {
	text := strings.TrimSpace(strings.Trim(strings.TrimSpace(string(raw)), `"`))
	n, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil, math.IsNaN(n), n < 1:
		return 0
	}
	return int(min(n, maxLife.Seconds()))
}

// newBearerToken measures from receipt: issued_at is by another clock. The token
// is renewed early, 10 % or 10 s, so that it does not end on the way.
func newBearerToken(text string, seconds int, now time.Time) bearerToken {
	life := defaultLife
	if seconds > 0 {
		life = time.Duration(min(int64(seconds), int64(maxLife/time.Second))) * time.Second
	}
	early := min(max(life/10, 10*time.Second), life/2)
	return bearerToken{text: secret.New(text), granted: now, renew: now.Add(life - early), expires: now.Add(life), kept: new(atomic.Bool)}
}

// refusal says what it means that a token endpoint granted nothing.
func (x *exchange) refusal(resp *http.Response, f classify.Text, cred *credential.Credential, repo string) *oci.Error {
	e := x.classify(resp, f, cred, repo)
	// A 401 stays the credential's refusal however it is written: asking again and
	// again locks accounts.
	page := f.Page && resp.StatusCode != http.StatusUnauthorized
	e.NotUnderstood = classify.MayBeRefusal(resp.StatusCode) && (page || e.Class == oci.UpstreamError)
	if e.Err == nil {
		e.Err = f.Cause("the token endpoint of "+x.registry, resp.StatusCode, cred)
	}
	return e
}

func (x *exchange) classify(resp *http.Response, f classify.Text, cred *credential.Credential, repo string) *oci.Error {
	status := resp.StatusCode
	switch {
	case (status == http.StatusUnauthorized || status == http.StatusForbidden) && cred == nil:
		// GHCR gives nobody a token for what is private or missing.
		return classify.NoCredential("", x.registry, repo)
	case status == http.StatusUnauthorized, status == http.StatusForbidden: // as long as nothing says that it is about cred
		a := classify.Response{Registry: x.registry, Type: x.kind, Credential: cred, Repo: repo, Status: status}
		return a.Forbidden(f)
	case status == http.StatusBadRequest && x.kind.BadScopeIsUnknown:
		return &oci.Error{Class: oci.NotFound, Code: oci.CodeNameUnknown, Message: fmt.Sprintf("%s can have no repository %s: check the name", x.registry, repo)}
	case status == http.StatusTooManyRequests:
		return classify.LimitedBy(x.registry, x.kind, cred, resp.Header, f, x.now())
	case status/100 == 3:
		return &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("the token endpoint of %s sends us elsewhere (%d), where no credentials go", x.registry, status)}
	}
	return &oci.Error{
		Class:      oci.UpstreamError,
		Message:    "the token endpoint of " + classify.Trouble(x.registry, status),
		RetryAfter: classify.RetryAfter(resp.Header, f.Message, x.now()),
	}
}
