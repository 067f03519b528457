package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"berth/internal/diagnose"
)

// The command finds the same with a node and without one, asks as the account
// that a pull would use, and tells no secret.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.AddUser("other-bot", "other-secret")
	s.write(s.path("organisations.d/acme/other"), "other-secret\n")
	s.put("organisations.d/acme.yaml", s.read("organisations.d/acme.yaml")+"  # a second one\n")
	s.put("organisations.d/acme.yaml", strings.Replace(s.read("organisations.d/acme.yaml"), "credentials: [",
		"credentials: [{name: other, registry: ghcr.io, repositories: [other/**], username: other-bot, password_file: acme/other}, ", 1))
	look := func(t *testing.T, code int, args ...string) *diagnose.Report {
		t.Helper()
		var r diagnose.Report
		got := s.command(append([]string{"diagnose", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(got.out), &r); err != nil || got.code != code {
			t.Fatalf("%v: %+v", err, got)
		}
		if strings.Contains(got.out+got.err, "-secret") {
			t.Errorf("there is a secret in %+v", got)
		}
		return &r
	}
	all := func(t *testing.T) {
		r := look(t, exitOK, app+":1", "--org", "acme", "--platform", "linux/amd64")
		if r.Account != "ci" || r.Repository != "acme/app" || r.Registry != "ghcr.io" || !r.OK {
			t.Errorf("%+v", r)
		}
		if r := look(t, exitOK, "localhost:5000/acme/"+app+":1", "--org", "acme", "--platform", "linux/amd64"); r.Repository != "acme/app" {
			t.Errorf("by its name here: %+v", r)
		}
		if r := look(t, exitFailed, app+":1"); r.Class != "no_credential" || r.Account != "" {
			t.Errorf("nobody: %+v", r)
		}
		if r := look(t, exitFailed, app+":1", "--org", "acme", "--account", "other"); r.Steps[len(r.Steps)-1].Name != diagnose.StepManifest {
			t.Errorf("another account: %+v", r)
		}
		if r := look(t, exitOK, "ghcr.io", "--org", "acme", "--account", "other"); r.Account != "other" {
			t.Errorf("an account: %+v", r)
		}
		if r := look(t, exitFailed, "ghcr.io", "--org", "acme"); !strings.Contains(r.Steps[1].Detail, "several accounts for ghcr.io: add --account ci or --account other") {
			t.Errorf("one of two: %+v", r)
		}
		if r := look(t, exitFailed, "x.example/app", "--org", "acme"); r.Steps[0].State != diagnose.Failed || !strings.Contains(r.Steps[0].Detail, "is not configured") {
			t.Errorf("no registry: %+v", r)
		}
		if r := look(t, exitFailed, app+":1", "--org", "acme", "--platform", "plan9/mips"); r.Class != "wrong_platform" {
			t.Errorf("no platform of it: %+v", r)
		}
		for _, args := range [][]string{{app, "--org", "initech"}, {app, "--platform", "x"}} {
			if got := s.command(append([]string{"diagnose"}, args...)...); got.code != exitFailed || got.out != "" {
				t.Errorf("%v: %+v", args, got)
			}
		}
		got := s.command("diagnose", app+":1", "--org", "acme")
		if !strings.Contains(got.out, "this pull works\n") || !strings.Contains(got.out, "\nmanifest   ok ") {
			t.Errorf("for people: %+v", got)
		}
	}
	t.Run("without a node", all)
	n := s.serve()
	t.Run("with a node", all)
	if !strings.Contains(n.log.String(), "POST /v1/diagnose") {
		t.Error("the node was not asked")
	}
	// A refusal that is remembered hides nothing. That the account was taken counts
	// for pulls too, and shows: nobody who has mended it should wait.
	s.registry.SetPassword("acme-bot", "another")
	s.caller(n, "acme").mustRefuse(manifest, http.StatusForbidden, "DENIED")
	s.metric(n, `berth_credential_ok{account="ci",organisation="acme",registry="ghcr.io"}`, 0)
	s.registry.SetPassword("acme-bot", "acme-secret")
	s.caller(n, "acme").mustRefuse(manifest, http.StatusForbidden, "DENIED")
	look(t, exitOK, app+":1", "--org", "acme", "--platform", "linux/amd64")
	s.metric(n, `berth_credential_ok{account="ci",organisation="acme",registry="ghcr.io"}`, 1)
	s.metric(n, `berth_cooldown_until_timestamp_seconds{account="ci",organisation="acme",registry="ghcr.io"}`, 0)
	s.caller(n, "acme").mustPull(app, s.image, "")
}

// A registry that leads to a private address is refused as it is for pulls, and
// the address is not told to whoever brought the name.
func TestDiagnoseKeepsThePolicy(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	names := newNameServer(t, "own.example")
	s.dropIn("acme", "registries: {own.example: {}}")
	path, err := exec.LookPath("berth")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(soon(t), path, "diagnose", "own.example/app", "--org", "acme", "--config", s.path("berth.yaml"))
	cmd.Env = append(os.Environ(), watchedResolver+"="+names.addr())
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("%v", err)
	}
	text := string(out)
	if !strings.Contains(text, "connect    failed") || !strings.Contains(text, "a loopback address, where this node does not go") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("%s", text)
	}
}

// What somebody has to mend is not said to pass by itself.
func TestDiagnose_WhoMends(t *testing.T) {
	for want, r := range map[string]diagnose.Report{
		"possibly temporary":         {Owner: "network"},
		"it does not pass by itself": {Owner: "network", Lasting: true},
		"the organisation can mend":  {Owner: "tenant", Organisation: "acme"},
	} {
		if got := whoMends(&r); !strings.HasPrefix(got, want) {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}
