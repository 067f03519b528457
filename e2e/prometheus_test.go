//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var prometheus = program{"prometheus", false}

// A real Prometheus scrapes berth, loads the rules as they are, sees an alert
// fire about a tenant and nothing to page anybody for, and understands what the
// dashboard asks.
func TestPrometheus(t *testing.T) {
	path := prometheus.find(t)
	n := newNode(t)
	address, dir := freeAddress(t), tempDir(t, "prometheus")
	rules, err := filepath.Abs("../observability/berth.rules.yml")
	must(t, err)
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: berth
    static_configs: [{targets: [%q]}]
`, rules, n.admin)
	startDaemon(t, daemonOptions{
		name: "prometheus", path: path, dir: dir, ready: answers("http://"+address+"/-/ready", http.StatusOK),
		args: []string{
			"--config.file", writeFile(t, filepath.Join(dir, "prometheus.yml"), config),
			"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address,
		},
	})
	p := prometheusClient{"http://" + address}
	// A counter rises only from what was seen before.
	p.await(t, "berth is scraped", `count(berth_pull_failures_total{reason="not_found",organisation="acme"} offset 2s) > 0`)

	c := craneClient{craneProgram.find(t)}
	i := pushOwn(t, n.acme, "team/app", "acme")
	mustPull(t, c, n.local("acme", i), n.as("acme"), i.digest)
	if _, err := c.pull(t, strings.TrimSuffix(n.local("acme", i), i.tag)+"mistyped", n.as("acme")); err == nil {
		t.Fatal("that pull should fail")
	}
	p.await(t, "the alert fires", `ALERTS{alertname="BerthTenantPullsFail",alertstate="firing",severity="tenant",organisation="acme",reason="not_found"}`)
	for _, alert := range p.query(t, `ALERTS{severity!="tenant"}`) {
		t.Errorf("an alert too many: %v", alert)
	}
	var state struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	p.get(t, "/api/v1/rules", &state)
	loaded := 0
	for _, g := range state.Groups {
		for _, r := range g.Rules {
			loaded++
			if r.Health != "ok" {
				t.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if loaded == 0 {
		t.Error("no rules are loaded")
	}
	p.await(t, "the pull is seen twice", `sum(rate(berth_upstream_requests_total[1m]))`)
	p.dashboard(t)
}

// prometheusClient asks a Prometheus.
type prometheusClient struct{ base string }

// get decodes the data of an answer.
func (p prometheusClient) get(t *testing.T, path string, data any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	must(t, err)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	var answer struct {
		Status string
		Error  string
		Data   json.RawMessage
	}
	must(t, json.Unmarshal(text, &answer))
	if answer.Status != "success" {
		t.Fatalf("%s: %s", path, answer.Error)
	}
	must(t, json.Unmarshal(answer.Data, data))
}

// query is the labels of what an expression gives now.
func (p prometheusClient) query(t *testing.T, expr string) (all []map[string]string) {
	t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	p.get(t, "/api/v1/query?query="+url.QueryEscape(expr), &data)
	for _, r := range data.Result {
		all = append(all, r.Metric)
	}
	return all
}

func (p prometheusClient) await(t *testing.T, what, expr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for len(p.query(t, expr)) == 0 {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// dashboard asks everything that the dashboard asks.
func (p prometheusClient) dashboard(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../observability/dashboard.json")
	must(t, err)
	var doc struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(text, &doc))
	variables := regexp.MustCompile(`\$(instance|organisation|registry)\b`)
	ranges := regexp.MustCompile(`\$__(range|rate_interval)\b`)
	// What shows trouble only, or what not every registry or node has.
	rare := regexp.MustCompile(`(>|==) (0|time\(\))|berth_ratelimit|berth_upstream_retries|berth_fleet_|berth_client_bypass|berth_(token|certificate)_expiry`)
	for _, panel := range doc.Panels {
		for _, target := range panel.Targets {
			expr := ranges.ReplaceAllString(variables.ReplaceAllString(target.Expr, ".*"), "1m")
			if len(p.query(t, expr)) == 0 && !rare.MatchString(expr) {
				t.Errorf("nothing on %q: %s", panel.Title, expr)
			}
		}
	}
}
