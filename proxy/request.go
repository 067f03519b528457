package proxy

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"berth/auth/caller"
	"berth/internal/limit"
	"berth/oci"
)

// request is one request and its answer.
type request struct {
	h    *handler
	r    *http.Request
	w    response
	peer *conn // nil: it is no Listener's
	id   string
	// client is the family of clients that the one who asks is of.
	client string
	start  time.Time
	span   trace.Span // nil: nothing is recorded

	// What was found out, in the order of answer. Zero: it did not come so far.
	parsed     oci.Request
	identified bool
	caller     caller.Caller
	route      Route
	pull       *pull // nil: the request is of none
	slot       limit.Slot
	memory     memory
	outcome    oci.Outcome
	digest     oci.Digest        // of what was sent
	image      bool              // what was sent is the manifest of an image
	mismatch   *platformMismatch // an index that the client cannot use

	values [12]string // of headers, so that each is no allocation of its own
	used   int

	// failure is what is answered instead of content.
	failure *oci.Error

	// deadline is the context of everything that is asked for this request.
	deadline headerDeadline
	// contentRange goes with a 416.
	contentRange string
}

// admit waits for the organisation's turn, which is a span of its own.
func (q *request) admit(ctx context.Context) (err error) {
	if q.h.Tracer != nil {
		var waiting trace.Span
		_, waiting = q.h.Tracer.Start(ctx, "admission")
		defer waiting.End()
	}
	q.slot, err = q.h.Limiter.Take(ctx, limit.Want{Organisation: q.caller.Organisation})
	return err
}

// reads has what is read for the request, n bytes at most, count as its organisation's.
func (q *request) reads(n int64) {
	q.memory.pool = q.h.Memory
	q.memory.want = limit.Want{Organisation: q.caller.Organisation, At: q.route.Registry.Name, N: n}
	q.deadline.memory = &q.memory
}

// object is what is asked for in the repository of the request.
func (q *request) object(kind oci.Kind, d oci.Digest) oci.Object {
	return oci.Object{Repo: q.route.Repo, Kind: kind, Digest: d}
}

// begin starts the clock: until the first byte of the answer is there, the
// request has HeaderTimeout.
func (h *handler) begin(w http.ResponseWriter, r *http.Request) *request {
	now := time.Now()
	q := &request{h: h, r: r, id: newID(), client: clientFamily(r.UserAgent()), start: now, deadline: headerDeadline{Context: r.Context(), at: now.Add(h.HeaderTimeout)}}
	q.w = response{
		under:    w,
		control:  *http.NewResponseController(w),
		stall:    h.StallTimeout,
		buffers:  h.buffers,
		sendfile: r.TLS == nil,
		noBody:   r.Method == http.MethodHead,
		// After the time the answer is 503 and nothing of the content leaves, even
		// if what fetches it has not been told yet.
		deadline: &q.deadline,
	}
	q.peer = peerOf(r.Context())
	if r.TLS == nil { // TLS makes records of its own, so it has no use for one
		q.w.conn = q.peer
	}
	if h.Audit.On() {
		q.w.decided = q.audit
	}
	q.set("Docker-Distribution-Api-Version", "registry/2.0")
	q.set("X-Content-Type-Options", "nosniff")
	q.set("X-Request-Id", q.id)
	if r.ContentLength != 0 {
		// No pull has a body. net/http would wait for it before it answers, unless
		// the connection ends with the answer.
		q.set("Connection", "close")
	}
	return q
}

// set sets a header. name must be in canonical form (Etag, not ETag).
func (q *request) set(name, value string) {
	if q.used == len(q.values) {
		q.w.under.Header().Set(name, value)
		return
	}
	q.values[q.used] = value
	q.used++
	q.w.under.Header()[name] = q.values[q.used-1 : q.used : q.used]
}

// end is the one place that turns what happened into an answer, metrics and a
// log line. It panics with http.ErrAbortHandler to cut an answer short that
// could not be completed: a body must never seem to have ended well.
func (q *request) end(ctx context.Context, err error) {
	q.w.ended()
	if err == nil {
		err = q.w.finish()
	}
	if !q.w.started {
		q.deadline.stop(time.Now())
	}
	var failure *oci.Error
	aborted := false
	if err != nil {
		failure = q.classify(ctx, err)
		aborted = q.w.started
		if !aborted {
			q.failure = failure
			q.sendError(failure)
		}
	}
	now := time.Now()
	q.count(now, failure, aborted)
	q.log(now, failure, aborted)
	if aborted {
		panic(http.ErrAbortHandler)
	}
}

// newID is short enough to be read out on the phone. It only has to be unique
// among the log lines somebody looks at.
func newID() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648, lower case
	var b [5]byte
	for i, r := 0, rand.Uint64(); i < len(b); i, r = i+1, r/32 {
		b[i] = alphabet[r%32]
	}
	return string(b[:])
}
