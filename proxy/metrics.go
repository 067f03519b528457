package proxy

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"berth/oci"
)

// nobody is the label of a caller without organisation, and of a request
// without registry.
const nobody = "-"

// MetricsOptions are what Metrics is made of.
type MetricsOptions struct {
	// Registerer gets the metrics. If nil, they are counted for nobody to see.
	Registerer prometheus.Registerer
	// MaxSeries is how many series may carry an organisation's name; beyond,
	// organisations are counted as "other". If 0, 20000.
	MaxSeries int
	// Now is the clock by which repeated failures are one. If nil, time.Now.
	Now func() time.Time
}

// Metrics counts for all listeners together. Labels come from configuration
// and enums only. Safe for concurrent use.
type Metrics struct {
	requests *counters                // organisation, registry, kind, result
	failures *counters                // organisation, registry, reason
	foreign  *counters                // organisation, registry
	served   *counters                // organisation, registry, source
	images   *counters                // organisation, registry
	duration *prometheus.HistogramVec // kind, result
	lastPull *prometheus.GaugeVec     // client
	invited  prometheus.Counter

	repeats *repeats
	indexes *indexes
	now     func() time.Time
}

// NewMetrics makes and registers the metrics. It panics when they are
// registered already.
func NewMetrics(o MetricsOptions) *Metrics {
	if o.MaxSeries == 0 {
		o.MaxSeries = 20000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := promauto.With(o.Registerer)
	room := &room{left: o.MaxSeries, overflow: f.NewCounter(prometheus.CounterOpts{
		Name: "berth_metrics_overflow_total",
		Help: "Series that were folded into organisation \"other\" since metrics.max_series was reached.",
	})}
	m := &Metrics{
		requests: newCounters(f, room, "berth_requests_total",
			"Requests for content, by how they were answered.", "organisation", "registry", "kind", "result"),
		failures: newCounters(f, room, "berth_pull_failures_total",
			"Failed pulls, by reason. The same failure counts once in 30 seconds.", "organisation", "registry", "reason"),
		foreign: newCounters(f, room, "berth_wrong_platform_total",
			"Pulls of images that are not built for the client's platform, or else the node's. The same image counts once in 30 seconds.", "organisation", "registry"),
		served: newCounters(f, room, "berth_served_bytes_total",
			"Bytes of content sent to clients, by where they came from.", "organisation", "registry", "source"),
		images: newCounters(f, room, "berth_pulls_total",
			"Manifests of images sent to clients, indexes and HEADs left out: one for each image that a client pulls.", "organisation", "registry"),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_request_duration_seconds",
			Help:    "Time until the headers of an answer left.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"kind", "result"}),
		lastPull: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_last_pull_timestamp_seconds",
			Help: "When a client of this family last got content.",
		}, []string{"client"}),
		invited: f.NewCounter(prometheus.CounterOpts{
			Name: "berth_challenges_total",
			Help: "Requests without credentials that were asked for them: the first step of most pulls, no failure.",
		}),
		repeats: newRepeats(o.Now),
		indexes: newIndexes(),
		now:     o.Now,
	}
	m.Expect("", nobody)
	return m
}

// Expect makes the failure series of registry for organisation (empty: nobody)
// start at 0, so that a first failure is an increase that alerts can see.
func (m *Metrics) Expect(organisation, registry string) {
	for _, class := range oci.Classes() {
		if countsAsFailure(class) {
			m.failures.get(labels{label(organisation), registry, class.String()})
		}
	}
	m.foreign.get(labels{label(organisation), registry})
}

// Keep drops the series of organisations that there are no more, and makes room
// for others. (A request of theirs that is still under way brings back a few,
// until the next time.)
func (m *Metrics) Keep(there func(organisation string) bool) {
	for _, c := range [...]*counters{m.requests, m.failures, m.foreign, m.served, m.images} {
		c.keep(there)
	}
}

// countsAsFailure: the others are counted apart, by who finds them.
func countsAsFailure(c oci.Class) bool { return c != oci.ClientGone && c != oci.WrongPlatform }

// count counts an exchange once, at its end.
func (x *exchange) count(failure *oci.Error, aborted bool) {
	m := x.h.Metrics
	if failure != nil && x.challenged(failure) {
		m.invited.Inc()
		return
	}
	organisation, registry := label(x.caller.Organisation), label(x.registryName())
	kind := kindOf(x.req.Endpoint)
	switch {
	case failure != nil:
		x.countFailure(failure, organisation, registry)
	case x.foreign != nil:
		x.fail(x.foreign.err, m.foreign, labels{organisation, registry})
	}
	if kind == nobody {
		return
	}
	result := x.result(failure)
	m.requests.get(labels{organisation, registry, kind, result}).Inc()
	m.duration.WithLabelValues(kind, result).Observe(x.untilHeaders().Seconds())
	if x.w.sent > 0 && (failure == nil || aborted) {
		m.served.get(labels{organisation, registry, source(x.outcome.Result)}).Add(float64(x.w.sent))
	}
	if failure == nil && x.image {
		m.images.get(labels{organisation, registry}).Inc()
	}
	if failure == nil && x.isPull() {
		m.lastPull.WithLabelValues(clientFamily(x.r.UserAgent())).Set(float64(m.now().UnixMilli()) / 1000)
	}
}

// countFailure counts what kept somebody from an image. A list does not, and
// neither does a request that is none (oci.ParseRequest's 400, 404 and 405, and
// 416); a refused login does, wherever it happens: dockerd never gets further
// than /v2/ then.
func (x *exchange) countFailure(failure *oci.Error, organisation, registry string) {
	status := failure.HTTPStatus()
	misunderstood := failure.Class == oci.Policy && status < 500 && status != http.StatusForbidden
	pulls := x.isPull() || failure.Class == oci.Caller
	if misunderstood || !pulls || !countsAsFailure(failure.Class) {
		return
	}
	x.fail(failure, x.h.Metrics.failures, labels{organisation, registry, failure.Class.String()})
}

// fail counts e in c, once for what belongs together, and keeps it for people.
func (x *exchange) fail(e *oci.Error, c *counters, l labels) {
	what := failed{organisation: l[0], registry: l[1], repository: x.repository(), reference: x.reference(), reason: e.Class.String()}
	first := x.h.Metrics.repeats.first(what)
	if first {
		c.get(l).Inc()
	}
	x.h.Failures.add(what, Failure{
		Organisation: x.caller.Organisation, Registry: x.registryName(), Class: e.Class, Message: x.message(e),
		RequestID: x.id, Client: clientFamily(x.r.UserAgent()),
	}, first)
}

// reference is the tag or digest that was asked for; of an index that does not
// fit, by whatever tag it was asked for before.
func (x *exchange) reference() string {
	switch {
	case x.req.Tag != "":
		return x.req.Tag
	case x.foreign != nil && x.foreign.tag != "":
		return x.foreign.tag
	}
	return string(x.req.Digest)
}

func (x *exchange) isPull() bool {
	return x.req.Endpoint == oci.EndpointManifest || x.req.Endpoint == oci.EndpointBlob
}

func (x *exchange) untilHeaders() time.Duration {
	if x.w.started {
		return x.w.startedAt.Sub(x.start)
	}
	return time.Since(x.start)
}

// result is how the request was answered, for metrics and the log.
func (x *exchange) result(failure *oci.Error) string {
	switch {
	case failure != nil && x.challenged(failure):
		return "challenged" // in the log only
	case failure != nil && failure.Class == oci.ClientGone:
		return string(oci.Gone)
	case failure != nil:
		return string(oci.Failed)
	case x.outcome.Result == "":
		return string(oci.Pass)
	}
	return string(x.outcome.Result)
}

// kindOf is a label, "-" for what asks for no content.
func kindOf(e oci.Endpoint) string {
	switch e {
	case oci.EndpointManifest:
		return "manifest"
	case oci.EndpointBlob:
		return "blob"
	case oci.EndpointTags, oci.EndpointReferrers:
		return "list"
	}
	return nobody
}

// source: who joins a fetch costs the registry nothing.
func source(r oci.Result) string {
	if r == oci.Fill || r == oci.Pass || r == "" {
		return "upstream"
	}
	return "cache"
}

func label(s string) string {
	if s == "" {
		return nobody
	}
	return s
}
