package proxy

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/internal/share"
	"berth/oci"
)

const (
	// pullPause is how long a client may take between two requests of one pull.
	pullPause = time.Minute
	// maxPulls bounds how many are followed at once. Above it, one of the organisation
	// that has the most is not counted.
	maxPulls = 4096
)

// pullKey is what requests of one pull have in common. No two pulls of the same
// repository by the same client are told apart: to know whose a blob is, each manifest
// would have to be parsed.
type pullKey struct{ organisation, registry, repository, client string }

// pull is one that is under way, or ended less than pullPause ago.
type pull struct {
	key         pullKey
	start, last time.Time
	running     int        // requests under way
	image       bool       // the manifest of an image has left
	filled      bool       // something came from the registry
	failed      string     // what was asked for in vain, and not had since
	result      oci.Result // of that
	exemplar    prometheus.Labels
}

// pulls measures pulls as a whole: from the first request for a manifest to the end of
// the last blob. Nothing tells that a pull has ended but that nothing comes for a
// minute, so a pull is counted when metrics are collected, or the client begins another.
type pulls struct {
	durations *series[prometheus.Observer] // organisation, registry, result
	vec       *prometheus.HistogramVec

	mu   sync.Mutex
	open *share.LRU[pullKey, *pull]
}

func newPulls(r prometheus.Registerer, budget *seriesBudget) *pulls {
	names := []string{"organisation", "registry", "result"}
	h := histogram("berth_pull_duration_seconds", "Time from the first request for a manifest to the end of the last blob of a pull.",
		.1, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
	vec := prometheus.NewHistogramVec(h, names)
	p := &pulls{
		durations: &series[prometheus.Observer]{
			with: vec.WithLabelValues, remove: vec.DeleteLabelValues, width: len(names),
			weight:   len(h.Buckets) + 3, // and +Inf, sum and count
			registry: true, budget: budget, known: map[labels]prometheus.Observer{},
		},
		vec:  vec,
		open: share.New[pullKey, *pull](maxPulls, nil),
	}
	p.durations.get(labels{nobody, nobody, string(oci.Hit)})
	if r != nil {
		r.MustRegister(p)
	}
	return p
}

// Describe is a prometheus.Collector's.
func (p *pulls) Describe(to chan<- *prometheus.Desc) { p.vec.Describe(to) }

// Collect is a prometheus.Collector's. Pulls that have ended are counted first.
func (p *pulls) Collect(to chan<- prometheus.Metric) {
	now := time.Now()
	p.mu.Lock()
	p.open.RemoveIf(func(_ pullKey, one *pull) bool {
		over := one.over(now)
		if over {
			p.count(one)
		}
		return over
	})
	p.mu.Unlock()
	p.vec.Collect(to)
}

// enter makes q a part of the pull that it belongs to. A blob without a manifest before
// it belongs to none.
func (p *pulls) enter(q *request) {
	if !q.isPull() {
		return
	}
	key := pullKey{label(q.caller.Organisation), q.route.Registry.Label(), q.route.Repo, addressOf(q.r.RemoteAddr)}
	p.mu.Lock()
	defer p.mu.Unlock()
	one, ok := p.open.Get(key)
	switch {
	case ok && (one.over(q.start) || one.begunAgain(q)):
		p.count(one)
		*one = pull{key: one.key}
	case !ok && q.parsed.Endpoint == oci.EndpointManifest:
		// Its strings may be pieces of long requests.
		key.repository, key.client = strings.Clone(key.repository), strings.Clone(key.client)
		one = &pull{key: key}
		p.open.Add(key.organisation, key, one)
	}
	if one == nil {
		return
	}
	if one.start.IsZero() {
		if q.parsed.Endpoint != oci.EndpointManifest {
			return
		}
		one.start, one.exemplar = q.start, q.exemplar()
	}
	one.running++
	q.pull = one
}

// leave notes how a request of a pull went.
func (p *pulls) leave(q *request, now time.Time, failure *oci.Error) {
	one := q.pull
	if one == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	one.running--
	one.last = now
	one.image = one.image || failure == nil && q.image
	one.filled = one.filled || failure == nil && source(q.outcome.Result) != fromCache
	switch what := q.reference(); {
	case failure != nil:
		one.failed, one.result = strings.Clone(what), oci.Result(q.result(failure))
	case one.failed == what:
		one.failed = ""
	}
}

// over says that the client asks for no more of it.
func (one *pull) over(now time.Time) bool {
	return one.running == 0 && now.Sub(one.last) >= pullPause
}

// begunAgain says that q begins another pull of the same repository: clients ask for a
// tag, some by HEAD first, and from then on by digest.
func (one *pull) begunAgain(q *request) bool {
	return one.running == 0 && q.parsed.Endpoint == oci.EndpointManifest &&
		(q.w.noBody || one.image && q.parsed.Tag != "")
}

// count observes one, unless it was only a look at what a tag means.
func (p *pulls) count(one *pull) {
	result := string(oci.Hit)
	switch {
	case one.failed != "":
		result = string(one.result)
	case !one.image:
		return
	case one.filled:
		result = string(oci.Fill)
	}
	observe(p.durations.get(labels{one.key.organisation, one.key.registry, result}), one.last.Sub(one.start), one.exemplar)
}
