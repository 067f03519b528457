package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"berth/internal/admin"
	"berth/oci"
)

// sum is that of the series of name whose labels have all of with.
func (n *running) sum(name string, with ...string) (sum uint64) {
	n.t.Helper()
	for line := range strings.Lines(n.metrics()) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if rest, ok := strings.CutPrefix(series, name); !ok || rest != "" && rest[0] != '{' {
			continue
		}
		all := true
		for _, label := range with {
			all = all && strings.Contains(series, label)
		}
		if !all {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			n.t.Fatal(err)
		}
		sum += uint64(v)
	}
	return sum
}

// What the status counts is what Prometheus is shown.
func TestStatus_AgreesWithTheMetrics(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	for range 2 {
		s.caller(n, "acme").mustPull(app, s.image, "")
	}
	s.caller(n, "acme").get("/v2/" + app + "/tags/list")
	s.caller(n, "acme").mustRefuse("/v2/"+app+"/manifests/none", http.StatusNotFound, oci.CodeManifestUnknown)
	s.registry.SetPassword("globex-bot", "another")
	s.caller(n, "globex").mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)

	got := s.command("status", "--json")
	var status admin.Status
	if err := json.Unmarshal([]byte(got.out), &status); err != nil {
		t.Fatalf("%v: %+v", err, got)
	}
	content := func(results ...string) (sum uint64) {
		for _, kind := range []string{"manifest", "blob"} {
			for _, result := range results {
				sum += n.sum("berth_requests_total", `kind="`+kind+`"`, `result="`+result+`"`)
			}
		}
		return sum
	}
	for what, both := range map[string][2]uint64{
		"pulls":         {status.Pulls.Served, n.sum("berth_pulls_total")},
		"failed pulls":  {status.Pulls.Failed, n.sum("berth_pull_failures_total")},
		"saved bytes":   {status.Pulls.SavedBytes, n.sum("berth_served_bytes_total", `source="cache"`)},
		"fetched bytes": {status.Pulls.FetchedBytes, n.sum("berth_upstream_fetched_bytes_total")},
		"hits":          {status.Pulls.Hits, content("hit", "join", "revalidated", "stale")},
		"requests":      {status.Pulls.Requests, content("hit", "join", "revalidated", "stale", "fill", "pass")},
	} {
		if both[0] != both[1] || both[0] == 0 {
			t.Errorf("%s: the status has %d, the metrics %d", what, both[0], both[1])
		}
	}
	if status.Pulls.ChargedDockerHub != 0 {
		t.Errorf("%d pulls charged to Docker Hub, which was never asked", status.Pulls.ChargedDockerHub)
	}
	if len(status.Clients) != 1 || status.Clients[0].Last.UnixMilli() != int64(math.Round(n.sample(`berth_last_pull_timestamp_seconds{client="docker"}`)*1000)) {
		t.Errorf("clients: %+v", status.Clients)
	}
	if len(status.Accounts) != 2 {
		t.Fatalf("accounts: %+v", status.Accounts)
	}
	for i, want := range []admin.Account{
		{Organisation: "acme", Registry: "ghcr.io", Name: "ci", State: admin.AccountOK},
		{Organisation: "globex", Registry: "ghcr.io", Name: "ci", State: admin.AccountRefused},
	} {
		a := status.Accounts[i]
		labels := fmt.Sprintf(`{account="ci",organisation=%q,registry="ghcr.io"}`, a.Organisation)
		if a.Organisation != want.Organisation || a.State != want.State || n.sample("berth_credential_ok"+labels) != map[admin.AccountState]float64{admin.AccountOK: 1}[a.State] {
			t.Errorf("%+v, want %+v", a, want)
		}
		until := n.sample("berth_cooldown_until_timestamp_seconds" + labels)
		if a.CoolDownUntil == nil && until > 0 || a.CoolDownUntil != nil && a.CoolDownUntil.UnixMilli() != int64(math.Round(until*1000)) {
			t.Errorf("%s is left alone until %v, or %v", a.Organisation, a.CoolDownUntil, until)
		}
	}
}

// Who waits for a limit of this node's is told.
func TestStatus_SaysWhoWaits(t *testing.T) {
	var out strings.Builder
	showStatus(&out, admin.Status{Waiting: []admin.Waiting{{Organisation: "acme", Host: "ghcr.io:443", Requests: 3}, {Organisation: admin.Nobody, Host: "quay.io:443", Requests: 1}}})
	for _, want := range []string{"waiting: 3 requests of acme to ghcr.io:443\n", "waiting: 1 requests of callers without an organisation to quay.io:443\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

// What needs attention stands in the first lines, and nowhere else again.
func TestStatus_SaysEachThingOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.main("policy: {deny: [nowhere.example/**, elsewhere.example/**]}\n")
	s.serve()
	s.save(strings.Replace(s.read("berth.yaml"), "max_size: 1GiB", "max_size: 2GiB", 1))
	s.reload(exitOK)
	got := s.command("status")
	for _, what := range []string{"nowhere.example", "elsewhere.example", "cache.max_size"} {
		if strings.Count(got.out, what) != 1 {
			t.Errorf("%s is said %d times:\n%s", what, strings.Count(got.out, what), got.out)
		}
	}
	again := s.command("reload")
	for _, what := range []string{"warning: ", "needs a restart: cache.max_size"} {
		if !strings.Contains(again.out, what) {
			t.Errorf("a reload does not say %q:\n%s", what, again.out)
		}
	}
}

// What was pulled stays counted when whoever pulled it is gone.
func TestStatus_CountsNeverGoDown(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	for _, who := range []string{"acme", "globex"} {
		s.caller(n, who).mustPull(app, s.image, "")
		s.caller(n, who).mustRefuse("/v2/"+app+"/manifests/none", http.StatusNotFound, oci.CodeManifestUnknown)
	}
	before := s.status().Pulls
	s.remove("organisations.d/globex.yaml")
	s.reload(exitOK)
	if after := s.status().Pulls; after != before || before.Served != 2 || before.Failed != 2 {
		t.Errorf("%+v, and without globex %+v", before, after)
	}
}
