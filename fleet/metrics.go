package fleet

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Result says how a download was got.
type Result string

// The results.
const (
	Complete   Result = "complete"    // all of it lay in the fleet
	InProgress Result = "in_progress" // another node was fetching it
	Leased     Result = "lease"       // this node fetched it, for the others too
	Fallback   Result = "fallback"    // this node fetched it, since the fleet was of no help
)

// Direction says which way bytes went.
type Direction string

// The directions, as this node sees them.
const (
	In  Direction = "in"
	Out Direction = "out"
)

// maxNodes bounds the series of other nodes' faults. Further ones are others, and so is
// whoever nobody can name.
const (
	maxNodes = 64
	others   = "other"
)

// Metrics of the fleet. A nil *Metrics counts nothing.
type Metrics struct {
	sent      *prometheus.CounterVec
	downloads *prometheus.CounterVec
	wait      prometheus.Histogram
	faults    *prometheus.CounterVec

	mu    sync.Mutex
	nodes map[string]bool // that have series
}

// NewMetrics registers the metrics of the fleet.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		nodes:     map[string]bool{},
		sent:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_fleet_bytes_total", Help: "Bytes of blobs that came from the fleet (in) or were given to it (out)."}, []string{"direction"}),
		downloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_fleet_downloads_total", Help: "Downloads by how the fleet took part: complete (all of it lay there), in_progress (another node was fetching it), lease (this node fetched it for all), fallback (the fleet was of no help)."}, []string{"result"}),
		wait:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "berth_fleet_wait_seconds", Help: "How long downloads waited for the fleet to say where the next bytes come from.", Buckets: []float64{.01, .05, .1, .5, 1, 2, 4, 8, 15}}),
		faults:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_fleet_faults_total", Help: "What other nodes did wrong: wrong bytes (wrong), leases that brought no part (vain). The node other is whoever cannot be told."}, []string{"node", "fault"}),
	}
	for _, d := range []Direction{In, Out} {
		m.sent.WithLabelValues(string(d))
	}
	for _, result := range []Result{Complete, InProgress, Leased, Fallback} {
		m.downloads.WithLabelValues(string(result))
	}
	for _, c := range []prometheus.Collector{m.sent, m.downloads, m.wait, m.faults} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) bytes(d Direction, n int) {
	if m != nil {
		m.sent.WithLabelValues(string(d)).Add(float64(n))
	}
}

func (m *Metrics) download(r Result) {
	if m != nil {
		m.downloads.WithLabelValues(string(r)).Inc()
	}
}

func (m *Metrics) waited(d time.Duration) {
	if m != nil {
		m.wait.Observe(d.Seconds())
	}
}

func (m *Metrics) wrong(node string) { m.fault(node, "wrong") }

func (m *Metrics) vain(node string) { m.fault(node, "vain") }

func (m *Metrics) fault(node, fault string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.nodes[node] && len(m.nodes) >= maxNodes { // whoever writes a lease may write any name there
		node = others
	}
	m.nodes[node] = true
	m.faults.WithLabelValues(node, fault).Inc()
}
