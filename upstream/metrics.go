package upstream

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"berth/oci"
)

// operation is what a request on the wire is for.
type operation string

const (
	opHead      operation = "manifest_head"
	opManifest  operation = "manifest_get"
	opProbe     operation = "blob_probe"
	opBlob      operation = "blob_get"
	opTags      operation = "tags"
	opReferrers operation = "referrers"
	opAuth      operation = "auth"     // challenges and tokens
	opRedirect  operation = "redirect" // whatever a redirect of the above led to
)

// label is o in metrics. A question about a blob that is kept and the download of one
// that is not are one there: else who may have neither saw which of them his request was.
func (o operation) label() string {
	if o.kind() == oci.Blob {
		return "blob"
	}
	return string(o)
}

// kind is what classify.Answer calls the object of an operation.
func (o operation) kind() oci.Kind {
	switch o {
	case opHead, opManifest:
		return oci.Manifest
	case opProbe, opBlob:
		return oci.Blob
	}
	return 0
}

// unknown is the code for an object that is not there.
func (o operation) unknown() oci.Code {
	if o.kind() == oci.Blob {
		return oci.CodeBlobUnknown
	}
	return oci.CodeManifestUnknown
}

// object is what a person calls it.
func (o operation) object() string {
	switch o.kind() {
	case oci.Manifest:
		return "tag or digest"
	case oci.Blob:
		return "blob"
	}
	return "list"
}

// Metrics counts what goes over the wire. One value serves all registries.
type Metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	fetched   *prometheus.CounterVec
	retries   *prometheus.CounterVec
	limit     *prometheus.GaugeVec
	remaining *prometheus.GaugeVec
	open      *prometheus.GaugeVec

	fetchedBytes atomic.Uint64
	mu           sync.Mutex
	manifests    map[string]uint64 // by registry
}

// Totals are what was fetched since the start, for the status.
type Totals struct {
	// FetchedBytes of manifests, blobs and lists.
	FetchedBytes uint64
	// Manifests that each registry delivered: what Docker Hub counts as pulls.
	Manifests map[string]uint64
}

// Totals are those of now.
func (m *Metrics) Totals() Totals {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Totals{FetchedBytes: m.fetchedBytes.Load(), Manifests: maps.Clone(m.manifests)}
}

// fetching counts the bytes of a registry.
type fetching struct {
	series prometheus.Counter
	total  *atomic.Uint64
}

func (f fetching) add(n int) {
	f.series.Add(float64(n))
	f.total.Add(uint64(n))
}

// NewMetrics makes the metrics and registers them. If reg is nil, they are
// counted and shown nowhere. It panics when reg has them already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	with := promauto.With(reg)
	return &Metrics{
		manifests: map[string]uint64{},
		requests: with.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_upstream_requests_total",
			Help: "Requests sent to a registry, its token endpoints and its redirect targets, every try by itself. code is the status, or the failure class of a request without one.",
		}, []string{"registry", "operation", "code"}),
		durations: with.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_upstream_request_duration_seconds",
			Help:    "Time until a request sent to a registry had its header or its failure, every try by itself.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			// Beside the classic buckets, for servers that ask for native histograms.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"registry", "operation"}),
		fetched: with.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_upstream_fetched_bytes_total",
			Help: "Bytes of manifests, blobs and lists read from a registry.",
		}, []string{"registry"}),
		retries: with.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_upstream_retries_total",
			Help: "Requests that were sent again, by the failure class of the try before.",
		}, []string{"registry", "reason"}),
		limit: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_ratelimit_limit",
			Help: "Pulls that the registry allows this account in its window, as last told. Absent where it does not tell.",
		}, []string{"registry", "organisation", "account"}),
		remaining: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_ratelimit_remaining",
			Help: "Pulls that are left to this account, as last told. Absent where the registry does not tell.",
		}, []string{"registry", "organisation", "account"}),
		open: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_breaker_open",
			Help: "Whether the registry or its token endpoint failed so often in a row that it is asked once in a second only: 1 or 0.",
		}, []string{"registry"}),
	}
}

// try counts one request on the wire.
func (m *Metrics) try(registry string, op operation, resp *http.Response, err error, took time.Duration) {
	m.requests.WithLabelValues(registry, op.label(), codeLabel(resp, err)).Inc()
	m.durations.WithLabelValues(registry, op.label()).Observe(took.Seconds())
	if op == opManifest && err == nil && resp.StatusCode == http.StatusOK {
		m.mu.Lock()
		m.manifests[registry]++
		m.mu.Unlock()
	}
}

// breaker shows whether a registry is in trouble.
func (m *Metrics) breaker(registry string, open bool) {
	value := 0.0
	if open {
		value = 1
	}
	m.open.WithLabelValues(registry).Set(value)
}

// codeLabel keeps the label a small set, whatever a registry invents.
func codeLabel(resp *http.Response, err error) string {
	switch {
	case err != nil:
		return classOf(err).String()
	case http.StatusText(resp.StatusCode) == "":
		return "other"
	}
	return strconv.Itoa(resp.StatusCode)
}

func (m *Metrics) retry(registry string, reason oci.Class) {
	m.retries.WithLabelValues(registry, reason.String()).Inc()
}

// rateLimit shows what a registry told about an account.
func (m *Metrics) rateLimit(registry string, key accountKey, told toldLimit) {
	labels := []string{registry, orDash(key.organisation), orDash(key.name)}
	if told.limit != nil {
		m.limit.WithLabelValues(labels...).Set(float64(*told.limit))
	}
	if told.remaining != nil {
		m.remaining.WithLabelValues(labels...).Set(float64(*told.remaining))
	}
}

// Forget drops the series of a registry that the configuration no longer has: whoever may
// name registries could else fill metrics with names. (A request that is still under way
// brings back a few, until the next time.)
func (m *Metrics) Forget(registry string) {
	its := prometheus.Labels{"registry": registry}
	for _, vec := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.requests, m.durations, m.fetched, m.retries, m.open, m.limit, m.remaining,
	} {
		vec.DeletePartialMatch(its)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if registry != oci.DockerHub { // which the status shows
		delete(m.manifests, registry)
	}
}

// forget drops the series of an account.
func (m *Metrics) forget(registry, organisation, account string) {
	labels := []string{registry, orDash(organisation), orDash(account)}
	m.limit.DeleteLabelValues(labels...)
	m.remaining.DeleteLabelValues(labels...)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
