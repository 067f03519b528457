package node

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// samples are the counters and gauges of one moment. What the status shows is
// read from the metrics, so that both always say the same.
type samples struct {
	series map[string][]sample // by name
	values map[string]float64  // by name and labels
}

// sample is one series.
type sample struct {
	labels map[string]string
	value  float64
}

// newSamples asks every collector once.
func newSamples(g prometheus.Gatherer) (*samples, error) {
	families, err := g.Gather()
	all := &samples{map[string][]sample{}, map[string]float64{}}
	for _, f := range families {
		if f.GetType() != dto.MetricType_COUNTER && f.GetType() != dto.MetricType_GAUGE {
			continue
		}
		for _, m := range f.GetMetric() {
			s := sample{labels: make(map[string]string, len(m.GetLabel())), value: m.GetCounter().GetValue() + m.GetGauge().GetValue()}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
			}
			all.series[f.GetName()] = append(all.series[f.GetName()], s)
			all.values[seriesName(f.GetName(), s.labels)] = s.value
		}
	}
	return all, err
}

// seriesName prints maps in the order of their keys.
func seriesName(name string, labels map[string]string) string {
	return fmt.Sprintf("%s %q", name, labels)
}

// sum is that of the series of name for which is says yes; a nil is: all.
func (s *samples) sum(name string, is func(labels map[string]string) bool) uint64 {
	var sum float64
	for _, one := range s.series[name] {
		if is == nil || is(one.labels) {
			sum += one.value
		}
	}
	return uint64(max(sum, 0))
}

// one is the series of name that has exactly these labels.
func (s *samples) one(name string, labels map[string]string) (float64, bool) {
	value, ok := s.values[seriesName(name, labels)]
	return value, ok
}
