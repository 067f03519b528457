package node

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/cache"
	"berth/fleet"
	"berth/fleet/gate"
	"berth/internal/audit"
	"berth/internal/config"
	"berth/internal/nodetest"
	"berth/internal/registry"
)

// A recording remembers what is registered.
type recording struct {
	prometheus.Registerer

	all []prometheus.Collector
}

func (r *recording) Register(c prometheus.Collector) error {
	r.all = append(r.all, c)
	return r.Registerer.Register(c)
}

func (r *recording) MustRegister(cs ...prometheus.Collector) {
	r.all = append(r.all, cs...)
	r.Registerer.MustRegister(cs...)
}

var described = regexp.MustCompile(`fqName: "(berth_\w+)".*constLabels: \{(.*?)\}, variableLabels: \{(.*?)\}`)

// metrics are the names and labels of all that a node measures.
func metrics(t *testing.T) map[string]string {
	t.Helper()
	r := &recording{Registerer: prometheus.NewRegistry()}
	n := &node{setup: setup{now: time.Now}, started: config.Default(config.Options{})}
	if err := n.measure(r); err != nil {
		t.Fatal(err)
	}
	kept, err := cache.New(cache.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	kept.Through(cache.Upstream{Spec: &registry.Spec{Name: "ghcr.io"}}) // which it counts for from now on
	r.MustRegister(droppedLines(nil), kept)
	if _, err := gate.NewMetrics(r); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.NewMetrics(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(audit.New(audit.Options{Registerer: r}).Close)
	found := map[string]string{}
	for _, c := range r.all {
		descs := make(chan *prometheus.Desc, 500)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			if m := described.FindStringSubmatch(d.String()); m != nil {
				found[m[1]] = labelsIn(m[2] + "," + m[3])
			}
		}
	}
	return found
}

// labelsIn are the names in "a,b" or `a="1",b="2"`, in order.
func labelsIn(list string) string {
	var names []string
	for part := range strings.SplitSeq(list, ",") {
		name, _, _ := strings.Cut(part, "=")
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// doc/metrics.md says what there is, with its labels, and nothing else: what shows
// only in time, too.
func TestMetrics_AreDocumented(t *testing.T) {
	t.Parallel()
	documented := nodetest.DocumentedMetrics(t, "../../doc/metrics.md")
	there := metrics(t)
	for name, labels := range documented {
		if known, ok := there[name]; !ok || labels != known {
			t.Errorf("%s is documented with the labels %q, it has %q (there: %t)", name, labels, known, ok)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if _, ok := documented[name]; !ok {
			t.Errorf("%s is not documented", name)
		}
	}
}

// Tokens that end are shown, as long as they are there; others are not.
func TestMetrics_ExpiryOfTokens(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	m := newConfigMetrics(r)
	ends := time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC)
	first := &config.Config{Organisations: map[string]config.Organisation{
		"acme":   {Tokens: []config.Token{{Name: "old", NotAfter: ends}, {Name: "new"}}},
		"globex": {Tokens: []config.Token{{Name: "only", NotAfter: ends.Add(time.Hour)}}},
	}}
	m.organisations(nil, first)
	m.organisations(first, &config.Config{Organisations: map[string]config.Organisation{"acme": first.Organisations["acme"]}})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if f.GetName() == "berth_token_expiry_timestamp_seconds" {
			for _, series := range f.GetMetric() {
				got = append(got, series.String())
			}
		}
	}
	if len(got) != 1 || !strings.Contains(got[0], `"acme"`) || !strings.Contains(got[0], `"old"`) || !strings.Contains(got[0], "1.801439999e+09") {
		t.Errorf("shown are %q", got)
	}
}
