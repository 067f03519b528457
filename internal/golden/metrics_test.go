package golden

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fileSizes limits how large a file of process pid may grow, and says how large it
// could before. Zero: nothing can be written.
func fileSizes(pid int, limit uint64) (before uint64, err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &old); err != nil {
		return 0, err
	}
	return old.Cur, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: old.Max}, nil)
}

// family is one metric.
type family struct {
	kind, help string
	labels     map[string]bool
}

var (
	sample = regexp.MustCompile(`^([a-z_0-9]+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$`)
	exact  = regexp.MustCompile(`^([a-z_0-9]+)(?:\{(.*)\})? (\S+)$`)
	label  = regexp.MustCompile(`([a-z_]+)="(?:[^"\\]|\\.)*"`)
	row    = regexp.MustCompile("(?m)^\\| `(berth_[a-z_]+)` \\|([^|]*)\\|")
)

// families reads a page of metrics: berth's own.
func families(t *testing.T, page string) map[string]*family {
	t.Helper()
	all := map[string]*family{}
	of := func(name string) *family {
		if all[name] == nil {
			all[name] = &family{labels: map[string]bool{}}
		}
		return all[name]
	}
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if !strings.Contains(line, "berth_") || strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "go_") {
			continue
		}
		words := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			of(words[2]).help = words[3]
		case strings.HasPrefix(line, "# TYPE "):
			of(words[2]).kind = words[3]
		default:
			m := sample.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("%q is no sample", line)
			}
			f := all[m[1]]
			if f == nil { // a counter whose name ends in _count, say
				f = of(exact.FindStringSubmatch(line)[1])
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				f.labels[l[1]] = true
			}
		}
	}
	return all
}

// valueOf adds up the samples of a metric.
func valueOf(page, name string) (sum float64) {
	for line := range strings.Lines(page) {
		if m := exact.FindStringSubmatch(strings.TrimSpace(line)); m != nil && m[1] == name {
			v, err := strconv.ParseFloat(m[3], 64)
			if err == nil {
				sum += v
			}
		}
	}
	return sum
}

// metrics are the names, labels, kinds and help texts that Prometheus reads. Those
// that only exist once something happened must have happened: what doc/metrics.md
// has, and this node not, is an error.
func (c *city) metrics(t *testing.T) {
	all := families(t, string(c.must(http.MethodGet, c.admin+"/metrics").body))
	text, err := os.ReadFile("../../doc/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
		f := all[m[1]]
		if f == nil && strings.HasPrefix(m[1], "berth_fleet_") {
			continue // this node is alone; those of one in a fleet are compared in internal/node
		}
		if f == nil {
			t.Errorf("doc/metrics.md has %s, and the node does not show it", m[1])
			continue
		}
		labels := map[string]bool{}
		for l := range strings.FieldsSeq(m[2]) {
			labels[strings.Trim(l, "`,")] = true
		}
		delete(f.labels, "le")
		if !maps.Equal(labels, f.labels) {
			t.Errorf("doc/metrics.md says that %s has labels %v, and it has %v", m[1], labels, f.labels)
		}
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		if !documented[name] {
			t.Errorf("doc/metrics.md lacks %s", name)
		}
		fmt.Fprintf(&b, "%s{%s} %s\n    %s\n", name, strings.Join(slices.Sorted(maps.Keys(f.labels)), ", "), cmp.Or(f.kind, "untyped"), f.help)
	}
	hold(t, "metrics", "Metrics: names, labels, kinds and help texts.", b.String())
}

// logged are the keys of the lines that a running node logged.
func (c *city) logged(t *testing.T) {
	lines := map[string]map[string]bool{}
	for _, line := range c.log.Lines() {
		head := fmt.Sprint(line["level"], "  ", line["msg"])
		if result, ok := line["result"]; ok {
			head += fmt.Sprint("  result=", result)
			if class, ok := line["class"]; ok {
				head += fmt.Sprint(" class=", class)
			}
		}
		if lines[head] == nil {
			lines[head] = map[string]bool{}
		}
		for key, value := range line {
			if key != "time" && key != "level" && key != "msg" {
				lines[head][key+":"+kindOf(value)] = true
			}
		}
	}
	var b strings.Builder
	for _, head := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&b, "%s\n%s", head, indented(lines[head]))
	}
	hold(t, "log", "Log lines of a node that was asked for everything in messages.golden, and more: level, message, and each key with the type of its value. (time, level and msg have all.)", b.String())
}
