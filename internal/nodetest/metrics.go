package nodetest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	documented = regexp.MustCompile("(?m)^\\| `(berth_\\w+)` \\| (.*?) ?\\| \\S")
	labelName  = regexp.MustCompile(`(\w+)="`)
)

// DocumentedMetrics are the names and labels of the metrics in a page of the
// documentation.
func DocumentedMetrics(t testing.TB, file string) map[string]string {
	t.Helper()
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range documented.FindAllStringSubmatch(string(page), -1) {
		found[m[1]] = labels(strings.Fields(strings.ReplaceAll(m[2], "`", "")))
	}
	if len(found) == 0 {
		t.Fatalf("%s documents no metrics", file)
	}
	return found
}

// ScrapedMetrics are the names and labels of berth's metrics as Prometheus reads
// them.
func ScrapedMetrics(page string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(page) {
		series, _, _ := strings.Cut(line, " ")
		name, list, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		if !strings.HasPrefix(name, "berth_") {
			continue
		}
		histogram := false
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && strings.HasSuffix(base, "_seconds") {
				name, histogram = base, true
			}
		}
		var names []string
		for _, m := range labelName.FindAllStringSubmatch(list, -1) {
			if !histogram || m[1] != "le" {
				names = append(names, m[1])
			}
		}
		found[name] = labels(names)
	}
	return found
}

// labels are names in order.
func labels(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	return strings.Join(names, " ")
}
