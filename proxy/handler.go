package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"berth/auth/caller"
	"berth/internal/audit"
	"berth/internal/limit"
	"berth/internal/registry"
	"berth/oci"
)

// Options are what one listener's handler is made of.
type Options struct {
	// Router is the table of registries. Required.
	Router *Router
	// Sources gives a registry as a caller may see it. Required.
	Sources func(caller caller.Caller, r *registry.Spec) (oci.Source, error)

	// Accounts are the names of an organisation's accounts at a registry, of the node's
	// own for the empty name: for messages. If nil, there are none.
	Accounts func(organisation string, r *registry.Spec) []string

	// Callers proves who is calling. If nil, the listener is open: nobody is
	// asked, and any Authorization is ignored.
	Callers Callers
	// Organisation is who everybody is on an open listener. If empty, nobody.
	Organisation string
	// Naming is how names are read here.
	Naming Naming
	// Names are the host names, besides localhost and IP addresses, that
	// clients may use for this listener. Ports in them are ignored.
	Names []string

	// Limiter bounds how many requests of one organisation are answered at once;
	// one for all listeners. If nil, nothing does.
	Limiter *limit.Pool
	// Memory is the bytes of manifests and lists that one organisation has in memory, of
	// each registry, until its clients have taken them. If nil, any number.
	Memory *limit.Pool

	// HeaderTimeout is how long a client waits for the first byte of an answer
	// before it gets 503. If 0, 20 seconds: containerd gives up after 30, and
	// then goes around the proxy.
	HeaderTimeout time.Duration
	// StallTimeout is how long a client may take for 64 KiB of a body before it
	// is left. If 0, 30 seconds. (A pull is written to disk as it comes, and
	// disks stall for seconds.)
	StallTimeout time.Duration

	// Logger gets one line per request at Info. If nil, nothing is logged. Its handler
	// must not keep records.
	Logger *slog.Logger
	// Metrics counts; one for all listeners. If nil, nothing is counted.
	Metrics *Metrics
	// Audit gets a line for each decision about an image, before the answer leaves. If
	// nil, nothing does.
	Audit *audit.Log
	// Tracer makes a span of each request. If nil, nothing is traced.
	Tracer trace.Tracer
	// Failures tells failures from their repetitions, and keeps the last ones for people;
	// one for all listeners. If nil, the handler has its own.
	Failures *Failures
}

// New makes the handler of one listener. It holds no state worth keeping: after
// a change of configuration, make a new one and give it to Live.
func New(o Options) http.Handler {
	if o.HeaderTimeout == 0 {
		o.HeaderTimeout = 20 * time.Second
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Failures == nil {
		o.Failures = NewFailures(nil)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(MetricsOptions{})
	}
	return &handler{
		Options:   o,
		guard:     newGuard(o.Names, o.Logger),
		strangers: rate.NewLimiter(strangerLines, 10*strangerLines),
		buffers:   &sync.Pool{New: func() any { return new([copyBuffer]byte) }},
		lines:     &sync.Pool{New: func() any { return new([maxAttrs]slog.Attr) }},
	}
}

type handler struct {
	Options

	guard     *guard
	strangers *rate.Limiter // of their lines in the log
	buffers   *sync.Pool    // of *[copyBuffer]byte
	lines     *sync.Pool    // of *[maxAttrs]slog.Attr
}

// strangerLines is how many requests a second of callers that have proven nothing are
// told at Info, on the whole: those beyond are told at Debug.
const strangerLines = 20

// ServeHTTP answers one request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := h.begin(w, r)
	defer q.endTrace()
	err := q.recovered(&q.deadline)
	q.end(&q.deadline, err)
}

// answer is a request from top to bottom. Whatever it returns, end answers.
func (q *request) answer(ctx context.Context) (err error) {
	if err := q.h.guard.check(q.r); err != nil {
		return err
	}
	if q.parsed, err = oci.ParseRequest(q.r.Method, q.r.URL); err != nil {
		return err
	}
	if err := q.identify(); err != nil {
		return err
	}
	if q.parsed.Endpoint == oci.EndpointPing {
		return q.ping()
	}
	if q.route, err = q.h.Router.Route(&q.parsed, q.caller.Organisation, q.h.Naming); err != nil {
		return err
	}
	q.h.Metrics.pulls.enter(q)
	if err = q.admit(ctx); err != nil {
		return err
	}
	source, err := q.h.Sources(q.caller, q.route.Registry)
	if err != nil {
		return err
	}
	switch q.parsed.Endpoint {
	case oci.EndpointManifest:
		return q.manifest(ctx, source)
	case oci.EndpointBlob:
		return q.blob(ctx, source)
	default:
		return q.list(ctx, source)
	}
}

// recovered calls answer and makes a panic an error like any other: the client gets
// an answer, and the log has the stack.
func (q *request) recovered(ctx context.Context) (err error) {
	defer func() {
		q.slot.Release()
		q.memory.release(memoryOver)
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return q.answer(ctx)
}

// ping answers end-1. Clients decide by it whether to send credentials at all,
// and give up on it in 15 seconds, so no upstream is asked.
func (q *request) ping() error {
	if _, err := q.h.Router.selected(&q.parsed, q.caller.Organisation); err != nil {
		return err
	}
	if account := q.caller.Account; account != "" && !q.h.hasAccount(q.caller.Organisation, account) {
		// Else docker login succeeds, and no pull ever does.
		return &oci.Error{
			Class: oci.Caller, Status: http.StatusForbidden, Code: oci.CodeDenied,
			Message: fmt.Sprintf("organisation %s has no account %.60q: log in with one that it has behind the plus sign, or without any", q.caller.Organisation, account),
		}
	}
	q.set("Content-Type", jsonType)
	return q.sendData([]byte("{}"))
}

// hasAccount says whether organisation calls an account so, at any registry.
func (h *handler) hasAccount(organisation, account string) bool {
	return h.Accounts == nil || slices.ContainsFunc(h.Router.names(organisation), func(name string) bool {
		spec, ok := h.Router.Lookup(organisation, name)
		return ok && slices.Contains(h.Accounts(organisation, spec), account)
	})
}
