package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/internal/config"
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
	n := &node{started: config.Default(configOptions()), now: time.Now}
	if err := n.measure(r); err != nil {
		t.Fatal(err)
	}
	r.MustRegister(droppedLines(nil))
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

var documented = regexp.MustCompile("^\\| `(berth_\\w+)` \\| (.*?) ?\\| \\S")

// doc/metrics.md says what there is, with its labels, and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	there := metrics(t)
	n := s.serve()
	s.caller(n, "acme").get(manifest)
	for name, labels := range scraped(n.metrics()) {
		if known, ok := there[name]; ok && labels != known && labels != strings.TrimSpace(known+" le") {
			t.Errorf("%s has the labels %q and describes %q", name, labels, known)
		} else if !ok {
			there[name] = labels // the cache collects what it describes
		}
	}
	file, err := os.Open("../../doc/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		m := documented.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		names := strings.Fields(strings.ReplaceAll(m[2], "`", ""))
		slices.Sort(names)
		labels, ok := there[m[1]]
		switch {
		case !ok:
			t.Errorf("%s is documented, and not there", m[1])
		case labels != strings.Join(names, " "):
			t.Errorf("%s has the labels %q, documented are %q", m[1], labels, names)
		}
		delete(there, m[1])
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		t.Errorf("%s is not documented", name)
	}
}

// scraped are the names and labels of berth's metrics in a page.
func scraped(page string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(page) {
		series, _, _ := strings.Cut(line, " ")
		name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		if !strings.HasPrefix(name, "berth_") {
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && strings.HasSuffix(base, "_seconds") {
				name = base
			}
		}
		var names []string
		for _, m := range labelName.FindAllStringSubmatch(labels, -1) {
			names = append(names, m[1])
		}
		found[name] = labelsIn(strings.Join(names, ","))
	}
	return found
}

var labelName = regexp.MustCompile(`(\w+)="`)

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
