// Package observability holds what Prometheus and Grafana need. Its tests know
// every metric and label in there from doc/metrics.md, which is held to the
// program by a test of the command.
package observability

import (
	"bufio"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

var documented = regexp.MustCompile("^\\| `(berth_\\w+)` \\| (.*?) ?\\| \\S")

// metrics are the documented names and their labels.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open("../doc/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if m := documented.FindStringSubmatch(lines.Text()); m != nil {
			all[m[1]] = strings.Fields(strings.ReplaceAll(m[2], "`", ""))
		}
	}
	if len(all) < 30 {
		t.Fatalf("doc/metrics.md has %d metrics only", len(all))
	}
	return all
}

// reasons are the documented ones of a failed pull, and whose they are.
func reasons(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../doc/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (tenant|network|operator) \\|").FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = m[2]
	}
	if len(all) != 12 {
		t.Fatalf("doc/metrics.md has %d reasons", len(all))
	}
	return all
}

var (
	selector = regexp.MustCompile(`\b((?:berth|up|process)(?:_\w+)?)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
)

// check looks at every metric and label of an expression.
func check(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	target := []string{"instance", "job"}
	labels := slices.Clone(target)
	// Groups name labels, matchers may hold anything.
	for _, m := range selector.FindAllStringSubmatch(grouping.ReplaceAllString(expr, ""), -1) {
		name := m[1]
		var own []string
		if strings.HasPrefix(name, "berth_") {
			base := name
			if b, ok := strings.CutSuffix(name, "_bucket"); ok {
				base, own = b, []string{"le"}
			}
			documented, ok := known[base]
			if !ok {
				t.Errorf("%s: there is no %s", where, name)
			}
			own = append(own, documented...)
		}
		labels = append(labels, own...)
		for _, m := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(append(own, target...), m[1]) {
				t.Errorf("%s: %s has no label %s", where, name, m[1])
			}
			if m[1] == "reason" && name == "berth_pull_failures_total" {
				for value := range strings.SplitSeq(m[2], "|") {
					if _, ok := reasons(t)[value]; !ok {
						t.Errorf("%s: there is no reason %q", where, value)
					}
				}
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if !slices.Contains(labels, strings.TrimSpace(label)) {
				t.Errorf("%s: nothing there has the label %s", where, label)
			}
		}
	}
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var doc struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	text, err := os.ReadFile("berth.rules.yml")
	if err == nil {
		err = yaml.Unmarshal(text, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range doc.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no rules")
	}
	return all
}

// The rules know the metrics, page for what is not a tenant's alone, and never
// once for each node where the trouble is a tenant's or a registry's.
func TestRules(t *testing.T) {
	known, owners := metrics(t), reasons(t)
	tests, err := os.ReadFile("berth_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		check(t, r.Alert, r.Expr, known)
		severity := r.Labels["severity"]
		if !slices.Contains([]string{"page", "ticket", "tenant"}, severity) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: severity %q, annotations %v", r.Alert, severity, r.Annotations)
		}
		if !strings.Contains(string(tests), r.Alert) {
			t.Errorf("%s has no test", r.Alert)
		}
		shared := regexp.MustCompile(`berth_(pull_failures_total|wrong_platform_total|credential_ok|organisation_config_ok|breaker_open|ratelimit_)`)
		if shared.MatchString(r.Expr) && (!grouping.MatchString(r.Expr) || strings.Contains(r.Expr, "instance")) {
			t.Errorf("%s is one alert for each node", r.Alert)
		}
		for _, m := range matcher.FindAllStringSubmatch(r.Expr, -1) {
			if m[1] != "reason" {
				continue
			}
			for reason := range strings.SplitSeq(m[2], "|") {
				if tenants := owners[reason] == "tenant"; tenants != (severity == "tenant") {
					t.Errorf("%s: %s is %s's, its severity %s", r.Alert, reason, owners[reason], severity)
				}
			}
		}
		if strings.Contains(r.Expr, "berth_pull_failures_total") && !strings.Contains(r.Expr, "reason") {
			t.Errorf("%s does not say for which reasons", r.Alert)
		}
		if strings.Contains(r.Expr, "berth_credential_ok") {
			// "-" is the nodes' own account, which no tenant can renew.
			want, named := map[string]string{`organisation="-"`: "ticket", `organisation!="-"`: "tenant"}, false
			for whose, who := range want {
				if strings.Contains(r.Expr, whose) {
					named = true
					if severity != who || who == "ticket" && strings.Contains(r.Annotations["description"], "--org") {
						t.Errorf("%s (%s): severity %s, %s", r.Alert, r.Expr, severity, r.Annotations["description"])
					}
				}
			}
			if !named {
				t.Errorf("%s does not say whose accounts", r.Alert)
			}
		}
	}
}

// The dashboard knows the metrics, and shows all that there are.
func TestDashboard(t *testing.T) {
	var doc struct {
		Panels []struct {
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name       string
				Definition string
			}
		}
	}
	text, err := os.ReadFile("dashboard.json")
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	known := metrics(t)
	variables := regexp.MustCompile(`\$__range|\$__rate_interval`)
	var shown strings.Builder
	taken := map[[2]int]string{}
	for _, p := range doc.Panels {
		for _, target := range p.Targets {
			check(t, p.Title, variables.ReplaceAllString(target.Expr, "5m"), known)
			shown.WriteString(target.Expr)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	for _, v := range doc.Templating.List {
		name, label, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ", ")
		if v.Definition != "" && label != "instance" && !slices.Contains(known[name], label) {
			t.Errorf("variable %s: %s has no label %s", v.Name, name, label)
		}
	}
	for name := range known {
		if !strings.Contains(shown.String(), name) && name != "berth_challenges_total" {
			t.Errorf("%s is on no panel", name)
		}
	}
}
