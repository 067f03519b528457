package main

import (
	"fmt"
	"strings"
	"testing"

	"berth/internal/nodetest"
)

// doc/metrics.md says what is shown, with its labels.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").get(manifest)
	documented := nodetest.DocumentedMetrics(t, "../../doc/metrics.md")
	for name, labels := range nodetest.ScrapedMetrics(n.metrics()) {
		if known, ok := documented[name]; !ok || labels != known {
			t.Errorf("%s has the labels %q, documented are %q", name, labels, known)
		}
	}
}

// A thousand organisations stay within metrics.max_series.
func TestManyOrganisations(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var all strings.Builder
	all.WriteString("metrics: {max_series: 2000}\norganisations:\n")
	for i := range 1000 {
		fmt.Fprintf(&all, "  org%d:\n    credentials: [{name: ci, registry: ghcr.io, username: u, password_file: organisations.d/acme/token}]\n", i)
	}
	s.main(all.String())
	n := s.serve()
	s.caller(n, "acme").get("/v2/" + app + "/manifests/mistyped")
	series := 0
	for line := range strings.Lines(n.metrics()) {
		if strings.HasPrefix(line, "berth_") && strings.Contains(line, `organisation="`) && !strings.Contains(line, `organisation="-"`) &&
			!strings.HasPrefix(line, "berth_organisation_config_ok") && !strings.HasPrefix(line, "berth_credential_ok") {
			series++
		}
	}
	folded := n.sample("berth_metrics_overflow_total")
	if most := 2000 + 100; series > most || series < 2000 || folded < 1000 {
		t.Errorf("%d series, %v folded", series, folded)
	}
}
