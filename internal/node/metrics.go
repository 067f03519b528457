package node

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"berth/internal/config"
)

// configMetrics tell about the configuration.
type configMetrics struct {
	ok           prometheus.Gauge
	since        prometheus.Gauge
	organisation *prometheus.GaugeVec
	token        *prometheus.GaugeVec // organisation, token
	certificate  *prometheus.GaugeVec // listener
}

func newConfigMetrics(r prometheus.Registerer) *configMetrics {
	f := promauto.With(r)
	return &configMetrics{
		ok: f.NewGauge(prometheus.GaugeOpts{
			Name: "berth_config_last_reload_successful",
			Help: "Whether the main file could be used when it was last read: 1 or 0.",
		}),
		since: f.NewGauge(prometheus.GaugeOpts{
			Name: "berth_config_last_reload_success_timestamp_seconds",
			Help: "When the main file that is in force was read.",
		}),
		organisation: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_organisation_config_ok",
			Help: "Whether the organisation's configuration could be used when it was last read: 1 or 0. With 0 it goes on with what it had, or is out.",
		}, []string{"organisation"}),
		token: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_token_expiry_timestamp_seconds",
			Help: "When a token of this node's callers ends, of those that do.",
		}, []string{"organisation", "token"}),
		certificate: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_certificate_expiry_timestamp_seconds",
			Help: "When the certificate that a listener shows ends.",
		}, []string{"listener"}),
	}
}

// serves says which certificate f shows from now on.
func (m *configMetrics) serves(f *listener) {
	if f.cert != nil {
		m.certificate.WithLabelValues(f.address.String()).Set(float64(f.cert.ends().Unix()))
	}
}

// applied says that a main file was put in force.
func (m *configMetrics) applied(at time.Time) {
	m.ok.Set(1)
	m.since.Set(float64(at.UnixMilli()) / 1000)
}

// failed says that one could not be.
func (m *configMetrics) failed() { m.ok.Set(0) }

// organisations shows those of cfg, and no longer those of before, which may be nil.
func (m *configMetrics) organisations(before, cfg *config.Config) {
	if before != nil {
		for name := range before.Organisations {
			m.gone(name, cfg)
		}
		for name := range before.Broken {
			m.gone(name, cfg)
		}
	}
	m.token.Reset()
	for name, o := range cfg.Organisations {
		m.organisation.WithLabelValues(name).Set(1)
		for _, t := range o.Tokens {
			if !t.NotAfter.IsZero() {
				m.token.WithLabelValues(name, t.Name).Set(float64(t.NotAfter.Unix()))
			}
		}
	}
	for name := range cfg.Broken {
		m.organisation.WithLabelValues(name).Set(0)
	}
}

func (m *configMetrics) gone(name string, cfg *config.Config) {
	_, there := cfg.Organisations[name]
	_, broken := cfg.Broken[name]
	if !there && !broken {
		m.organisation.DeleteLabelValues(name)
	}
}

// buildInfo tells versions apart: which nodes run which.
func buildInfo(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "berth_build_info",
		Help:        "What this program was built from. Always 1.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}

// droppedLines counts what never came to the log.
func droppedLines(b *logBuffer) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "berth_log_dropped_total",
		Help: "Lines of the log that were dropped because they could not be written, or not fast enough.",
	}, func() float64 { return float64(b.dropped.Load()) })
}
