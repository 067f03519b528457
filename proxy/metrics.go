package proxy

import (
	"net/http"
	"strings"
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
}

// Metrics counts for all listeners together. Labels come from configuration
// and enums only. Safe for concurrent use.
type Metrics struct {
	requests      *counters                // organisation, registry, kind, result
	failures      *counters                // organisation, registry, reason
	wrongPlatform *counters                // organisation, registry
	served        *counters                // organisation, registry, source
	images        *counters                // organisation, registry
	limited       *counters                // organisation, limit
	duration      *prometheus.HistogramVec // kind, result
	pulls         *pulls                   // organisation, registry, result
	lastPull      *prometheus.GaugeVec     // client
	challenges    prometheus.Counter

	totals  totals
	indexes *indexes
}

// NewMetrics makes and registers the metrics. It panics when they are
// registered already.
func NewMetrics(o MetricsOptions) *Metrics {
	if o.MaxSeries == 0 {
		o.MaxSeries = 20000
	}
	f := promauto.With(o.Registerer)
	budget := &seriesBudget{left: o.MaxSeries, reserve: o.MaxSeries / 2, most: o.MaxSeries / 8, overflow: f.NewCounter(prometheus.CounterOpts{
		Name: "berth_metrics_overflow_total",
		Help: "Series that were folded into organisation \"other\" since metrics.max_series was reached.",
	})}
	m := &Metrics{
		requests: newCounters(f, budget, "berth_requests_total",
			"Requests for content, by how they were answered.", "organisation", "registry", "kind", "result"),
		failures: newCounters(f, budget, "berth_pull_failures_total",
			"Failed pulls, by reason. The same failure counts once in 30 seconds.", "organisation", "registry", "reason"),
		wrongPlatform: newCounters(f, budget, "berth_wrong_platform_total",
			"Pulls of images that are not built for the client's platform, or else the node's. The same image counts once in 30 seconds.", "organisation", "registry"),
		served: newCounters(f, budget, "berth_served_bytes_total",
			"Bytes of content sent to clients, by where they came from.", "organisation", "registry", "source"),
		images: newCounters(f, budget, "berth_pulls_total",
			"Manifests of images sent to clients, indexes and HEADs left out: one for each image that a client pulls.", "organisation", "registry"),
		limited: newCounters(f, budget, "berth_limit_refusals_total",
			"Requests that were refused since a limit of this node was reached.", "organisation", "limit"),
		duration: f.NewHistogramVec(histogram("berth_request_duration_seconds", "Time until the headers of an answer left.",
			.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 20), []string{"kind", "result"}),
		pulls: newPulls(o.Registerer, budget),
		lastPull: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_last_pull_timestamp_seconds",
			Help: "When a client of this family last got content.",
		}, []string{"client"}),
		challenges: f.NewCounter(prometheus.CounterOpts{
			Name: "berth_challenges_total",
			Help: "Requests without credentials that were asked for them: the first step of most pulls, no failure.",
		}),
		indexes: newIndexes(),
	}
	m.Expect("", nobody)
	m.limited.get(labels{nobody, "limits.requests"})
	return m
}

func histogram(name, help string, buckets ...float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		// Beside the classic buckets, for servers that ask for native histograms.
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}
}

// Expect makes the failure series of registry for organisation (empty: nobody)
// start at 0, so that a first failure is an increase that alerts can see.
func (m *Metrics) Expect(organisation, registry string) {
	for _, class := range oci.Classes() {
		if countsAsFailure(class) {
			m.failures.get(labels{label(organisation), registry, class.String()})
		}
	}
	m.wrongPlatform.get(labels{label(organisation), registry})
}

// Keep drops the series of organisations and of registries that there are no more, and makes
// room for others. (A request that is still under way brings back a few, until the next
// time.)
func (m *Metrics) Keep(organisation, registry func(name string) bool) {
	there := func(l labels) bool { return l[0] == nobody || organisation(l[0]) }
	at := func(l labels) bool { return there(l) && (l[1] == nobody || registry(l[1])) }
	for _, c := range [...]*counters{m.requests, m.failures, m.wrongPlatform, m.served, m.images} {
		c.keep(at)
	}
	m.pulls.durations.keep(at)
	m.limited.keep(there)
}

// countsAsFailure: the others are counted apart, by who finds them.
func countsAsFailure(c oci.Class) bool { return c != oci.ClientGone && c != oci.WrongPlatform }

// count counts an exchange once, at its end.
func (q *request) count(now time.Time, failure *oci.Error, aborted bool) {
	m := q.h.Metrics
	m.pulls.leave(q, now, failure)
	if failure != nil && q.isChallenge(failure) {
		m.challenges.Inc()
		return
	}
	organisation, registry := label(q.caller.Organisation), nobody
	if q.route.Registry != nil {
		registry = q.route.Registry.Label()
	}
	kind := kindOf(q.parsed.Endpoint)
	switch {
	case failure != nil:
		q.countFailure(failure, organisation, registry)
	case q.mismatch != nil:
		q.fail(q.mismatch.err, m.wrongPlatform, labels{organisation, registry})
	}
	if kind == nobody {
		return
	}
	result := q.result(failure)
	m.requests.get(labels{organisation, registry, kind, result}).Inc()
	m.totals.answer(kind, oci.Result(result))
	observe(m.duration.WithLabelValues(kind, result), q.untilHeaders(), q.exemplar())
	if q.w.sent > 0 && (failure == nil || aborted) {
		from := source(q.outcome.Result)
		m.served.get(labels{organisation, registry, from}).Add(float64(q.w.sent))
		if from == fromCache {
			m.totals.cacheBytes.Add(uint64(q.w.sent))
		}
	}
	if failure == nil && q.image {
		m.images.get(labels{organisation, registry}).Inc()
		m.totals.images.Add(1)
	}
	if failure == nil && q.isPull() {
		m.lastPull.WithLabelValues(q.client).Set(float64(now.UnixMilli()) / 1000)
		m.totals.pulledBy(q.client, now)
	}
}

// countFailure counts what kept somebody from an image. A list does not, and
// neither does a request that is none (oci.ParseRequest's 400, 404 and 405, and
// 416); a refused login does, wherever it happens: dockerd never gets further
// than /v2/ then.
func (q *request) countFailure(failure *oci.Error, organisation, registry string) {
	status := failure.HTTPStatus()
	if failure.Class == oci.Policy && status == http.StatusServiceUnavailable && failure.Rule != "" {
		q.h.Metrics.limited.get(labels{organisation, limitOf(failure.Rule)}).Inc()
	}
	misunderstood := failure.Class == oci.Policy && status < 500 && status != http.StatusForbidden
	pulls := q.isPull() || failure.Class == oci.Caller
	if misunderstood || !pulls || !countsAsFailure(failure.Class) {
		return
	}
	if q.fail(failure, q.h.Metrics.failures, labels{organisation, registry, failure.Class.String()}) {
		q.h.Metrics.totals.failures.Add(1)
	}
}

// limitOf is the label of a rule of package limit: the key, where there is one.
func limitOf(rule string) string {
	switch {
	case strings.HasPrefix(rule, "limits."), strings.HasPrefix(rule, "upstream."):
		return rule
	case strings.HasSuffix(rule, "memory"):
		return "memory"
	}
	return "registry" // what it takes from one address
}

// fail counts e in c, unless it is one that has been counted, and keeps it for people.
func (q *request) fail(e *oci.Error, c *counters, l labels) (first bool) {
	key := failureKey{organisation: l[0], registry: l[1], repository: q.repository(), reference: q.reference(), reason: e.Class.String()}
	first = q.h.Failures.add(key, Failure{
		Organisation: q.caller.Organisation, Registry: q.registryName(), Class: e.Class, Message: q.message(e),
		RequestID: q.id, Client: q.client,
	})
	if first {
		c.get(l).Inc()
	}
	return first
}

// reference is the tag or digest that was asked for; of an index that does not
// fit, by whatever tag it was asked for before.
func (q *request) reference() string {
	switch {
	case q.parsed.Tag != "":
		return q.parsed.Tag
	case q.mismatch != nil && q.mismatch.tag != "":
		return q.mismatch.tag
	}
	return string(q.parsed.Digest)
}

func (q *request) isPull() bool {
	return q.parsed.Endpoint == oci.EndpointManifest || q.parsed.Endpoint == oci.EndpointBlob
}

func (q *request) untilHeaders() time.Duration {
	if q.w.started {
		return q.w.startedAt.Sub(q.start)
	}
	return time.Since(q.start)
}

// result is how the request was answered, for metrics and the log.
func (q *request) result(failure *oci.Error) string {
	switch {
	case failure != nil && q.isChallenge(failure):
		return "challenged" // in the log only
	case failure != nil && failure.Class == oci.ClientGone:
		return string(oci.Gone)
	case failure != nil:
		return string(oci.Failed)
	case q.outcome.Result == "":
		return string(oci.Pass)
	}
	return string(q.outcome.Result)
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
const fromCache = "cache"

func source(r oci.Result) string {
	if r == oci.Fill || r == oci.Pass || r == "" {
		return "upstream"
	}
	return fromCache
}

func label(s string) string {
	if s == "" {
		return nobody
	}
	return s
}
