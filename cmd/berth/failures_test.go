package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"berth/internal/admin"
	"berth/oci"
)

// What failed can be read where the client hid it, by organisation, and goes
// when the organisation does.
func TestFailures(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.SetRights("globex-bot")
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	if got := s.command("failures"); got.code != exitOK || got.out != "no failed pulls\n" {
		t.Errorf("before: %+v", got)
	}
	acme.get("/v2/" + app + "/manifests/mistyped")
	acme.get("/v2/" + app + "/manifests/mistyped")
	text, _, _ := strings.Cut(globex.mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied).message(), " [")

	read := func(args ...string) []admin.Failure {
		t.Helper()
		var f admin.Failures
		got := s.command(append([]string{"failures", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(got.out), &f); err != nil || got.code != exitOK {
			t.Fatalf("%v: %+v", err, got)
		}
		return f.Failures
	}
	if all := read(); len(all) != 2 || all[0].Organisation != "globex" || all[1].Organisation != "acme" {
		t.Errorf("all: %+v", all)
	}
	mine := read("--org", "acme")
	if len(mine) != 1 || mine[0].Image() != app+":mistyped" || mine[0].Class != "not_found" || mine[0].Owner != "tenant" || mine[0].Count != 1 {
		t.Errorf("acme's: %+v", mine)
	}
	if none := append(read("--org", "-"), read("--since", "0s", "--org", "acme")...); len(none) != 0 {
		t.Errorf("%+v", none)
	}
	got := s.command("failures", "--org", "globex", "--since", "1h")
	if !strings.Contains(got.out, "  globex  "+app+":1  denied\n") || !strings.Contains(got.out, text) || strings.Contains(got.out, "acme-bot") {
		t.Errorf("globex's: %+v", got)
	}
	if got := s.command("failures", "--org", "initech"); got.code != exitFailed || !strings.Contains(got.err, `no organisation "initech"`) {
		t.Errorf("an unknown one: %+v", got)
	}
	if got := s.command("failures", "--since", "yesterday"); got.code != exitUsage {
		t.Errorf("no time: %+v", got)
	}

	const series = `berth_pull_failures_total{organisation="globex",reason="denied",registry="ghcr.io"}`
	s.metric(n, series, 1)
	s.remove("organisations.d/globex.yaml")
	s.reload(exitOK)
	s.metric(n, series, -1)
	if all := read(); len(all) != 1 {
		t.Errorf("globex is gone: %+v", all)
	}
	if strings.Contains(n.metrics(), `"globex"`) {
		t.Error("there are series of an organisation that is gone")
	}
}
