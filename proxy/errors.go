package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/oci"

	"berth/upstream/classify"
)

const (
	jsonType = "application/json" // without a charset: clients compare it as a whole

	maxMessage = 800
	maxDetail  = 400

	// When a failure does not say when it will be over. podman waits at most a
	// minute for one, and the others ignore it.
	retryLimited = 60 * time.Second
	retryDown    = 5 * time.Second
)

// errorBody is the error document of the distribution specification.
type errorBody struct {
	Errors [1]errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    oci.Code `json:"code"`
	Message string   `json:"message"`
	Detail  string   `json:"detail,omitempty"`
}

// classify makes one *oci.Error of whatever ended the request.
func (q *request) classify(ctx context.Context, err error) *oci.Error {
	e := oci.AsError(err)
	// Being left, and running out of time, look like trouble below: a cancelled
	// context makes dials and reads fail.
	vague := e.Class == oci.ClientGone || e.Class.Indeterminate() && e.Class != oci.RateLimited
	switch {
	case vague && q.r.Context().Err() != nil:
		return &oci.Error{Class: oci.ClientGone, Message: "the client left", Err: err}
	case vague && (errors.Is(err, errTooLate) || errors.Is(context.Cause(ctx), errTooLate)):
		return &oci.Error{Class: oci.Timeout, Message: q.where() + " gave no answer in time: pull again, what has come so far is kept", Err: err}
	case e.Class == oci.ClientGone && !errors.Is(err, errLeft):
		return &oci.Error{Class: oci.UpstreamError, Message: "the request was given up inside the proxy: pull again", Err: err}
	}
	// The request may have been made for somebody else, who asked as the same principal.
	return e.For(q.caller.Organisation)
}

// where names the registry for a message.
func (q *request) where() string {
	if q.route.Registry == nil {
		return "the proxy"
	}
	return q.route.Registry.Name
}

// sendError answers with e. Nothing has left yet, so what was prepared for a
// better answer is taken back.
func (q *request) sendError(e *oci.Error) {
	status := q.status(e)
	q.w.status, q.w.err, q.w.deadline = status, nil, nil
	header := q.w.under.Header()
	header.Del("Content-Range")
	for _, name := range [...]string{"Accept-Ranges", "Cache-Control", "Docker-Content-Digest", "Etag", "Link", "Oci-Filters-Applied", "Warning"} {
		header.Del(name)
	}
	if status == http.StatusUnauthorized {
		header.Set("Www-Authenticate", challenge)
	}
	if peerOf(q.r.Context()).shouldEnd(status) {
		header.Set("Connection", "close")
	}
	if status == http.StatusRequestedRangeNotSatisfiable && q.contentRange != "" {
		header.Set("Content-Range", q.contentRange)
	}
	if after := retryAfter(status, e.RetryAfter); after != "" {
		header.Set("Retry-After", after)
	}
	body := errorDocument(errorEntry{
		Code:    q.code(e),
		Message: q.message(e) + " [" + q.id + "]",
		Detail:  oci.OneLine(e.Detail, maxDetail),
	})
	header.Set("Content-Type", jsonType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if !q.w.noBody {
		q.w.Write(body) //nolint:errcheck // the client is told, or it is gone
	}
	q.w.finish() //nolint:errcheck // likewise
}

// message is e's, for the organisation that asked: what went wrong with an
// answer that several wait for names none of them.
func (q *request) message(e *oci.Error) string {
	text := e.Message
	switch who := q.caller.Organisation; {
	case who == "", strings.HasPrefix(text, "organisation "):
	case e.Class == oci.NoCredential && q.route.Registry != nil:
		// Asked for everyone without an account, in words for nobody.
		own, ofNode := q.accounts()
		text = classify.Uncovered(who, q.route.Registry.Name, q.route.Repo, own, ofNode).Message
	default:
		text = "organisation " + who + ": " + text
	}
	return oci.OneLine(text, maxMessage)
}

// accounts are those of the caller at the registry, none of which is for the
// repository, and whether this node has one.
func (q *request) accounts() (own []string, ofNode bool) {
	if q.h.Accounts == nil {
		return nil, false
	}
	own = q.h.Accounts(q.caller.Organisation, q.route.Registry)
	if chosen := q.caller.Account; slices.Contains(own, chosen) {
		own = []string{chosen}
	}
	return own, len(q.h.Accounts("", q.route.Registry)) > 0
}

// errorDocument leaves < and > as they are: people read it with curl.
func errorDocument(e errorEntry) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(errorBody{[1]errorEntry{e}}); err != nil {
		return []byte(`{"errors":[]}`) // strings cannot fail to be encoded
	}
	return b.Bytes()
}

// status is e's, within bounds: 401 belongs to identify alone, or a client
// would throw a good login away; and an error is never a success.
func (q *request) status(e *oci.Error) int {
	status := e.HTTPStatus()
	switch {
	case status == http.StatusUnauthorized && !q.mayChallenge(e):
		return http.StatusForbidden
	case status < 400 || status > 599:
		return http.StatusServiceUnavailable
	}
	return status
}

// code is e's. Where e leaves it to its class, what is not found is named by
// what was asked for.
func (q *request) code(e *oci.Error) oci.Code {
	if e.Code == "" && q.status(e) == http.StatusForbidden {
		return oci.CodeDenied
	}
	if e.Code == "" && e.Class == oci.NotFound {
		switch q.parsed.Endpoint {
		case oci.EndpointBlob:
			return oci.CodeBlobUnknown
		case oci.EndpointTags:
			return oci.CodeNameUnknown
		}
	}
	if code := e.WireCode(); code != "" {
		return code
	}
	return oci.CodeUnknown
}

// retryAfter is in whole seconds, which all clients that look at it can read,
// while not all can read a date.
func retryAfter(status int, after time.Duration) string {
	switch {
	case status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable:
		return ""
	case after > 0:
	case status == http.StatusTooManyRequests:
		after = retryLimited
	default:
		after = retryDown
	}
	return strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10)
}
