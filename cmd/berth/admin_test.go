package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/admin"
	"berth/internal/ocitest"
	"berth/oci"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.save(s.read("berth.yaml") + "organisations: {main: {}}\n")
	bad := s.put("organisations.d/globex.yaml", "tokens: 1\n")
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.clock.forward(3 * time.Minute)
	published(t, s.cacheDir())

	got := s.command("status", "--json")
	var status admin.Status
	if err := json.Unmarshal([]byte(got.out), &status); err != nil || got.code != exitOK {
		t.Fatalf("%v: %+v", err, got)
	}
	if status.Version != version() || status.PID != os.Getpid() || status.UptimeSeconds < 180 || status.UptimeSeconds > 300 {
		t.Errorf("%+v", status)
	}
	if len(status.Listeners) != 2 || status.Listeners[0].Callers != "token" || "http://"+status.Listeners[1].Sockets[0] != n.doors[openDoor] {
		t.Errorf("listeners: %+v", status.Listeners)
	}
	size := int64(0)
	for _, file := range s.files() {
		if info, err := os.Stat(file); err == nil && strings.Contains(file, "/blobs/") {
			size += info.Size()
		}
	}
	if c := status.Cache; c.Directory != s.cacheDir() || c.Bytes != size || size == 0 || c.LimitBytes != 1<<30 {
		t.Errorf("cache: %+v, want %d bytes", c, size)
	}
	c := status.Configuration
	if c.Main == nil || c.Main.State != admin.Applied || c.Applied.Before(status.Started) {
		t.Errorf("configuration: %+v", c)
	}
	wants(t, c.Reload, "globex", admin.Failed, bad, "globex.yaml:1:9: tokens")
	var names []string
	for _, o := range c.Organisations {
		names = append(names, o.Organisation)
	}
	if want := []string{"acme", "globex", "main"}; !slices.Equal(names, want) || c.Organisations[2].Path != c.Main.Path {
		t.Errorf("organisations: %+v", c.Organisations)
	}

	got = s.command("status")
	for _, want := range []string{"1 pulls served, 0 charged to Docker Hub, 549 B saved\nberth " + version() + ", process ", "! organisation globex cannot pull: error in organisations.d/globex.yaml\n", "nobody has to log in: public images only", "callers prove who they are", ", at most 1.0 GiB, disk ", "organisation acme: in force (sha256 ", "organisation globex: the file is bad, the organisation cannot pull", "organisation main: in force\n"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is not in\n%s%s", want, got.out, got.err)
		}
	}
	for _, secret := range []string{"acme-secret", s.token("acme")} {
		if strings.Contains(got.out, secret) {
			t.Errorf("%q is in\n%s", secret, got.out)
		}
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	acme.mustPull(app, s.image, "")
	globex.mustPull(app, s.image, "")
	s.registry.Forget()
	if got := s.command("purge", "--org", "acme"); got.code != exitOK || got.out != "organisation acme: access will be checked again at the next pull; cached images were kept\n" {
		t.Errorf("%+v", got)
	}
	globex.mustPull(app, s.image, "")
	must(t, s.registry, "the other one's pull", cost{})
	acme.mustPull(app, s.image, "")
	must(t, s.registry, "the next pull", cost{token: 1, head: 1})

	// A right that was withdrawn ends now, and no grace helps.
	s.registry.SetRights("acme-bot")
	acme.mustPull(app, s.image, "")
	if got := s.command("purge", "--organisation=acme", "--json"); got.code != exitOK || !strings.Contains(got.out, `"organisation": "acme"`) {
		t.Errorf("%+v", got)
	}
	acme.mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)

	if got := s.command("purge", "--org", "initech"); got.code != exitFailed || !strings.Contains(got.err, "there is no organisation initech") || !strings.Contains(got.err, "is forgotten") {
		t.Errorf("an unknown one: %+v", got)
	}
	if got := s.command("purge", "--org", "../x"); got.code != exitFailed || !strings.Contains(got.err, "is no organisation") {
		t.Errorf("no name: %+v", got)
	}
	for _, args := range [][]string{{"purge"}, {"purge", "--org"}, {"purge", "acme"}, {"reload", "now"}, {"status", "--jsn"}} {
		if got := s.command(args...); got.code != exitUsage {
			t.Errorf("%q: %+v", args, got)
		}
	}
	n.await("the order is in the log", func() bool { return strings.Contains(n.log.String(), `"order":"POST /v1/purge"`) })
}

// The commands say why they cannot reach the node.
func TestCommandsWithoutANode(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, command := range [][]string{{"status"}, {"reload"}, {"purge", "--org", "acme"}} {
		got := s.command(command...)
		if got.code != exitFailed || !strings.Contains(got.err, "berth is not running: nobody answers on "+s.path("admin.sock")) || got.out != "" {
			t.Errorf("%q: %+v", command, got)
		}
	}
	s.save(strings.Replace(s.read("berth.yaml"), fmt.Sprintf("%q", s.path("admin.sock")), `""`, 1))
	if got := s.command("status"); got.code != exitFailed || !strings.Contains(got.err, "set admin.socket") {
		t.Errorf("no socket: %+v", got)
	}
	s.main("")
	n := s.serve()
	n.stop()
	if _, err := os.Lstat(s.path("admin.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// What keeps the socket from being made keeps nobody from pulling, and nothing
// that it would do is to be had over TCP.
func TestNodeWithoutASocket(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.write(s.path("admin.sock"), "somebody else's")
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	if !strings.Contains(n.log.String(), "admin.socket cannot be opened") {
		t.Errorf("the log says nothing:\n%s", n.log)
	}
	if s.read("admin.sock") != "somebody else's" {
		t.Error("the file was touched")
	}
	for _, base := range append(slices.Clone(n.doors), n.admin) {
		for _, path := range []string{"/v1/reload", "/v1/purge", "/v1/status"} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				if a := s.client(base).do(method, path); a.status < 400 {
					t.Errorf("%s answers over TCP: %s", base, a)
				}
			}
		}
	}
}

// Who comes second does not take the socket from the first.
func TestSocketOfARunningNode(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	other := newStage(t)
	other.save(strings.Replace(other.read("berth.yaml"), other.path("admin.sock"), s.path("admin.sock"), 1))
	m := other.serve()
	if !strings.Contains(m.log.String(), "another process answers") {
		t.Errorf("the second one says nothing:\n%s", m.log)
	}
	m.stop()
	if got := s.command("status", "--json"); got.code != exitOK || !strings.Contains(got.out, s.cacheDir()) {
		t.Errorf("the first one lost its socket: %+v", got)
	}
	n.stop()
}

// The count of dropped lines, and everything about the configuration, is there
// from the start.
func TestMetricsOfANewNode(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.metric(n, "berth_log_dropped_total", 0)
	for _, zero := range []string{
		"berth_fills_in_progress", "berth_cache_bytes", "berth_cache_objects", "berth_cache_foreign_files", "berth_cache_evictions_total",
		`berth_cache_errors_total{operation="sync"}`, "berth_disk_bypass_total",
	} {
		s.metric(n, zero, 0)
	}
	s.metric(n, "berth_cache_writable", 1)
	if n.sample("berth_cache_limit_bytes") <= 0 {
		t.Error("no limit is shown")
	}
	s.metric(n, "berth_config_last_reload_successful", 1)
	s.metric(n, `berth_organisation_config_ok{organisation="acme"}`, 1)
	if at := n.sample("berth_config_last_reload_success_timestamp_seconds"); at < float64(time.Now().Add(-time.Hour).Unix()) {
		t.Errorf("the start is %f", at)
	}
}

// An organisation whose files are its own: a secret is found in its folder, and
// nowhere else.
func TestSecretsOfDropIns(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	outside := filepath.Join(t.TempDir(), "secret")
	s.write(outside, "acme-secret\n")
	s.remove("organisations.d/acme/token")
	if err := os.Symlink(outside, s.path("organisations.d/acme/token")); err != nil {
		t.Fatal(err)
	}
	r := s.reload(exitFailed)
	if w := r.Warnings; len(w) != 1 || !strings.Contains(w[0], "escapes") {
		t.Errorf("%q", w)
	}
}

// A credential helper is run for accounts of the main file.
func TestHelperOfAnAccount(t *testing.T) {
	s := newStage(t)
	bin := t.TempDir()
	script := "#!/bin/sh\nread server\n[ \"$server\" = \"" + s.registry.Host() + "\" ] && echo '{\"Username\":\"acme-bot\",\"Secret\":\"acme-secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-made-up"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s.main(fmt.Sprintf(`helpers: [made-up]
organisations:
  initech:
    tokens: [{name: only, sha256: %x}]
    credentials: [{name: ci, registry: ghcr.io, helper: {name: made-up}}]
`, hashText(s.token("initech"))))
	n := s.serve()
	s.caller(n, "initech").mustPull(app, s.image, "")
	if got := s.registry.Count(ocitest.Match{Kind: ocitest.Manifest, User: "acme-bot"}); got == 0 {
		t.Error("the registry never saw the helper's user")
	}
}

func hashText(s string) []byte {
	_, sum, err := hashOf(io.NopCloser(strings.NewReader(s)))
	if err != nil {
		panic(err)
	}
	return sum[:]
}

// published waits until nothing is on its way to the disk any more: an answer
// ends when its digest matched, and not when the file has its name.
func published(t *testing.T, dir string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if growing, err := os.ReadDir(filepath.Join(dir, "tmp")); err == nil && len(growing) == 0 {
			return
		}
	}
	t.Fatal("something is still on its way to the disk")
}
