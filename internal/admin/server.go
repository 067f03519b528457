package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"berth/internal/diagnose"
)

const (
	// maxRunning is how many requests run at once. Commands are typed by people
	// and called by a control plane; more than this is a runaway.
	maxRunning = 16
	maxRequest = 64 << 10
	maxHeader  = 16 << 10

	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	idleTimeout   = 30 * time.Second
	// answerTimeout bounds a whole request.
	answerTimeout = time.Minute
)

// Options are what the routes do. A route whose function is nil is not there.
// An error of type *Error goes to the client as it is; any other one with
// status 500 and its text. They hold no secret.
type Options struct {
	// Reload reads the configuration again and returns when it is in force.
	Reload func(context.Context) (Reload, error)
	// Purge forgets what was proven to an organisation, and its tokens.
	Purge func(context.Context, PurgeRequest) (Purge, error)
	// Remove deletes what is kept.
	Remove func(context.Context, RemoveRequest) (Removal, error)
	// Status is the node as it is now.
	Status func(context.Context) (Status, error)
	// Failures are the last failures of pulls.
	Failures func(context.Context, FailuresRequest) (Failures, error)
	// Canary says whether a pull that a client was made to try came to this node.
	Canary func(context.Context, CanaryRequest) (Canary, error)
	// Ready says whether pulls are answered.
	Ready func(context.Context) error
	// Diagnose walks the way of a pull.
	Diagnose func(context.Context, DiagnoseRequest) (*diagnose.Report, error)
	// Images lists what the cache keeps.
	Images func(context.Context, ImagesRequest) (Images, error)
	// Prewarm fetches an image, telling how far it is, and last how it ended.
	Prewarm func(ctx context.Context, request PrewarmRequest, hear func(Progress)) (Progress, error)
	// Page is the status as HTML, at /.
	Page http.Handler
	// Logger gets one line for each order. If nil, nothing is logged.
	Logger *slog.Logger
}

// Error is a failure with the status that tells the client what kind it is.
type Error struct {
	// Status is that of HTTP.
	Status int
	// Message is one line for whoever gave the order.
	Message string
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// NewServer is a server for a listener of Listen. It answers nobody but root and
// the user that this process runs as.
func NewServer(o Options) *http.Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	add(mux, "POST /v1/reload", o.Logger, withoutRequest(o.Reload))
	add(mux, "POST /v1/purge", o.Logger, o.Purge)
	add(mux, "POST /v1/remove", o.Logger, o.Remove)
	add(mux, "GET /v1/status", nil, withoutRequest(o.Status))
	add(mux, "GET /v1/failures", nil, o.Failures)
	add(mux, "POST /v1/canary", o.Logger, o.Canary)
	add(mux, "POST /v1/diagnose", o.Logger, o.Diagnose)
	add(mux, "GET /v1/ready", nil, withoutAnswer(o.Ready))
	add(mux, "GET /v1/images", nil, o.Images)
	addPrewarm(mux, o)
	if o.Page != nil {
		mux.Handle("GET /", o.Page)
	}
	return &http.Server{
		Handler:           guarded(few(mux)),
		ConnContext:       withPeer,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
}

// few refuses more requests than maxRunning at once.
func few(next http.Handler) http.Handler {
	running := make(chan struct{}, maxRunning)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case running <- struct{}{}:
			defer func() { <-running }()
			next.ServeHTTP(w, r)
		default:
			fail(w, http.StatusServiceUnavailable, "too many orders at once: try again")
		}
	})
}

func withoutRequest[A any](do func(context.Context) (A, error)) func(context.Context, struct{}) (A, error) {
	if do == nil {
		return nil
	}
	return func(ctx context.Context, _ struct{}) (A, error) { return do(ctx) }
}

// nothing is an empty document.
type nothing struct{}

func withoutAnswer(do func(context.Context) error) func(context.Context, nothing) (nothing, error) {
	if do == nil {
		return nil
	}
	return func(ctx context.Context, _ nothing) (nothing, error) { return nothing{}, do(ctx) }
}

// add makes a route of a function from one JSON document to another. A logger
// makes it one that is logged.
func add[Q, A any](mux *http.ServeMux, pattern string, log *slog.Logger, do func(context.Context, Q) (A, error)) {
	if do == nil {
		return
	}
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var request Q
		err := read(w, r, &request)
		if asked, ok := any(&request).(query); ok && err == nil {
			err = asked.query(r.URL.Query())
		}
		if err != nil {
			fail(w, http.StatusBadRequest, "the request cannot be read: "+err.Error())
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		answer, err := do(ctx, request)
		tell(r, log, pattern, request, err)
		if e, ok := errors.AsType[*Error](err); ok {
			fail(w, e.Status, e.Message)
			return
		} else if err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		write(w, http.StatusOK, answer)
	})
}

// query is a request that may also be made of the parameters of a URL, so that
// what only reads can be asked for with curl alone.
type query interface {
	query(parameters url.Values) error
}

// tell logs an order, and by whom it was given.
func tell(r *http.Request, log *slog.Logger, order string, request any, err error) {
	if log == nil {
		return
	}
	log = log.With("order", order, "request", request, "by_user", r.Context().Value(peerKey{}))
	if err != nil {
		log.Warn("an order on the admin socket failed", "err", err)
		return
	}
	log.Info("admin command")
}

// read decodes the body strictly; none is an empty document.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// failure is the body of an answer that is none.
type failure struct {
	Error string `json:"error"`
}

func fail(w http.ResponseWriter, status int, message string) { write(w, status, failure{message}) }

func write(w http.ResponseWriter, status int, answer any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(answer); err != nil {
		http.Error(w, "the answer cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // whoever asked is gone if this fails
}
