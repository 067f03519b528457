package gate

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what the engines' gates show. A nil *Metrics shows nothing.
type Metrics struct {
	up     *prometheus.Desc
	errors *prometheus.CounterVec

	mu    sync.Mutex
	gates map[*Gate]string
}

// NewMetrics registers the metrics of the engines.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		up: prometheus.NewDesc("berth_fleet_up", "Whether the fleet's engine (bucket, coordinator) is asked: 0 from a failure on until a probe succeeds.", []string{"engine"}, nil),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_fleet_errors_total", Help: "Failures of the fleet's engine (bucket, coordinator). Pulls went on without it.",
		}, []string{"engine"}),
		gates: map[*Gate]string{},
	}
	if err := r.Register(m.errors); err != nil {
		return nil, err
	}
	return m, r.Register(m)
}

// Describe is for the registerer.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.up }

// Collect is for the registerer. An engine with several gates is up if all of them are
// open.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	up := map[string]float64{}
	for g, engine := range m.gates {
		if _, seen := up[engine]; !seen {
			up[engine] = 1
		}
		if g.Away() != nil {
			up[engine] = 0
		}
	}
	m.mu.Unlock()
	for _, engine := range slices.Sorted(maps.Keys(up)) {
		ch <- prometheus.MustNewConstMetric(m.up, prometheus.GaugeValue, up[engine], engine)
	}
}

func (m *Metrics) watch(engine string, g *Gate) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gates[g] = engine
	m.errors.WithLabelValues(engine)
}

func (m *Metrics) forget(g *Gate) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.gates, g)
}

func (m *Metrics) failed(engine string) {
	if m != nil {
		m.errors.WithLabelValues(engine).Inc()
	}
}
