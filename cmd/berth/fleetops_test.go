package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/diagnose"
	clientsetup "berth/internal/setup"

	"berth/internal/ocitest"
	"berth/internal/ocitest/engines"
)

// ask runs a command with the home's configuration.
func (h *home) ask(args ...string) said {
	h.t.Helper()
	var out, err bytes.Buffer
	code := (&options{}).run(h.t.Context(), append(args, "--config", h.config()), &out, &err)
	return said{code, out.String(), err.String()}
}

// step is what the report says of a step, all of its lines.
func step(r *diagnose.Report, name string) (state diagnose.State, detail string) {
	for _, s := range r.Steps {
		if s.Name == name && state != diagnose.Failed {
			state, detail = s.State, detail+s.Detail+"\n"
		}
	}
	return state, detail
}

// The engines as berth setup fleet prints them, and what berth diagnose fleet says of
// them, with a node and without one.
func TestFleet_SetUpAndDiagnosed(t *testing.T) {
	t.Parallel()
	hub := ocitest.New(t, ocitest.Options{})
	h := newHome(t)
	h.registry("docker.io", hub)
	h.tenant("acme")
	plan := func() (p clientsetup.Plan) {
		got := h.ask("setup", "fleet", "--json")
		if err := json.Unmarshal([]byte(got.out), &p); err != nil || got.code != exitOK {
			t.Fatalf("%v: %+v", err, got)
		}
		return p
	}
	if got := h.ask("diagnose", "fleet"); got.code != exitFailed || !strings.Contains(got.err, "no fleet: in the configuration") {
		t.Errorf("without a fleet: %+v", got)
	}
	c := &crew{t: t, s3: engines.StartS3(t), redis: &engines.Redis{Addr: "127.0.0.1:1"}}
	h.fleet(c, "node-7")
	var line string
	for _, f := range plan().Files {
		if strings.HasSuffix(f.Path, "users.acl") {
			line = strings.Replace(f.Content, "PASSWORD", nodePassword, 1)
		}
	}
	if !strings.HasPrefix(line, "user node-7 on >") {
		t.Fatalf("no line for the node's user: %q", line)
	}
	c.redis = engines.StartRedis(t, strings.TrimSpace(line), strings.Replace(strings.TrimSpace(line), "node-7", "node-8", 2), "user node-9 on >"+nodePassword+" ~* &* +@all")
	h.more = ""
	h.fleet(c, "node-7")
	look := func(code int) *diagnose.Report {
		t.Helper()
		var r diagnose.Report
		got := h.ask("diagnose", "fleet", "--json")
		if err := json.Unmarshal([]byte(got.out), &r); err != nil || got.code != code {
			t.Fatalf("%v: %+v", err, got)
		}
		for _, canary := range []string{nodePassword, c.s3.Secret, fleetKey} {
			if strings.Contains(got.out+got.err, canary) {
				t.Errorf("there is a secret in %+v", got)
			}
		}
		return &r
	}
	all := func(t *testing.T) {
		r := look(exitOK)
		for _, name := range []string{diagnose.StepKey, diagnose.StepBucket, diagnose.StepClock, diagnose.StepList, diagnose.StepCoordinator, diagnose.StepRights, diagnose.StepNodes} {
			if state, detail := step(r, name); state != diagnose.OK {
				t.Errorf("%s: %s, %s", name, state, detail)
			}
		}
	}
	t.Run("without a node", all)
	h.socket = filepath.Join(h.dir, "s")
	n := h.build()
	t.Run("with a node", all)
	if got := h.ask("status"); got.code != exitOK || !strings.Contains(got.out, "fleet: node-7 in zone here\n") || strings.Contains(got.out, "away") {
		t.Errorf("%+v", got)
	}
	n.stop()
	h.socket = ""

	key := filepath.Join(h.dir, "fleet-key")
	h.write(key, strings.Repeat("0123456789abcdef", 4)+"\n")
	other := h.ask("diagnose", "fleet", "--json") // shows node-7 with another key
	h.write(key, fleetKey+"\n")
	h.more = strings.Replace(h.more, "username: node-7", "username: node-8", 1)
	if state, detail := step(look(exitFailed), diagnose.StepNodes); other.code != exitOK || state != diagnose.Failed || !strings.Contains(detail, "node-7 has another key") {
		t.Errorf("two keys in one fleet: %s, %s", state, detail)
	}
	h.more = strings.Replace(h.more, "username: node-8", "username: node-9", 1)
	if state, detail := step(look(exitFailed), diagnose.StepRights); state != diagnose.Failed || !strings.Contains(detail, "another node's prefix") {
		t.Errorf("a user with all rights: %s, %s", state, detail)
	}
	h.write(key, "too short\n")
	h.write(filepath.Join(h.dir, "bucket-key"), "AKIAOTHER:other\n")
	c.redis.Stop()
	r := look(exitFailed)
	for _, name := range []string{diagnose.StepKey, diagnose.StepBucket, diagnose.StepCoordinator} {
		if state, detail := step(r, name); state != diagnose.Failed {
			t.Errorf("%s: %s, %s", name, state, detail)
		} else {
			t.Log(name, detail)
		}
	}
}

// Secrets of a fleet are checked as all are, and a new organisation's key is in use
// without a restart.
func TestFleet_SecretsAreChecked(t *testing.T) {
	t.Parallel()
	hub := ocitest.New(t, ocitest.Options{})
	c := newCrew(t, 1, hub, nil)
	h := c.homes[0]
	if got := h.ask("check", "--user", "root", h.config()); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	h.write(filepath.Join(h.dir, "fleet-key"), fleetKey[:20]+"\n")
	h.write(filepath.Join(h.dir, "bucket-key"), "canary-without-a-colon\n")
	got := h.ask("check", "--user", "root", h.config())
	for _, want := range []string{`"key_file"`, "openssl rand -hex 32", `"bucket.access_key_file"`, "ACCESS-KEY-ID:SECRET"} {
		if got.code != exitFailed || !strings.Contains(got.out+got.err, want) {
			t.Errorf("no word of %s in %+v", want, got)
		}
	}
	if strings.Contains(got.out+got.err, fleetKey[:20]) || strings.Contains(got.out+got.err, "canary") {
		t.Errorf("a secret shows: %+v", got)
	}
}
