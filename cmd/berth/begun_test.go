package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// One line of the log says where everything is that is used.
func TestTheStartIsTold(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	var line map[string]any
	for _, l := range n.log.Lines() {
		if l["msg"] == "berth started" {
			line = l
		}
	}
	for key, want := range map[string]string{
		"version": version(), "config": s.path("berth.yaml"), "organisations": s.path("organisations.d"),
		"cache": s.cacheDir(), "state": s.cacheDir(), "socket": s.path("admin.sock"), "admin": strings.TrimPrefix(n.admin, "http://"),
		"listeners": strings.TrimPrefix(n.doors[tokenDoor], "http://") + " (token), " + strings.TrimPrefix(n.doors[openDoor], "http://") + " (open)",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, not %s", key, line[key], want)
		}
	}
}

// A secret that cannot be used shows in the log, the status and on the page before
// anybody pulls with it: at the start, and when an organisation comes.
func TestSecretsAreReadBeforeTheyAreNeeded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	account := func(name string) string {
		return "credentials: [{name: ci, registry: ghcr.io, username: bot, password_file: " + name + "/secret}]\n"
	}
	for name, secret := range map[string]string{"empty": "\n", "missing": "", "open": "hunter2-hunter2\n", "whole": "hunter2-hunter2\n"} {
		s.put("organisations.d/"+name+".yaml", account(name))
		if secret == "" {
			continue
		}
		if err := os.Mkdir(s.path("organisations.d/"+name), 0o700); err != nil {
			t.Fatal(err)
		}
		s.put("organisations.d/"+name+"/secret", secret)
	}
	if err := os.Chmod(s.path("organisations.d/open/secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.save(strings.Replace(s.read("berth.yaml"), "registries:\n", "registries:\n  quay.io: {credential: {username: bot, password_file: none}}\n", 1))
	n := s.serve()
	told := func(organisations ...string) func() bool {
		return func() bool {
			var bad []string
			for _, l := range n.log.Lines() {
				if l["msg"] == "a secret cannot be used" {
					bad = append(bad, l["organisation"].(string))
				}
			}
			slices.Sort(bad)
			return slices.Equal(bad, organisations)
		}
	}
	n.await("four are told", told("", "empty", "missing", "open"))

	status := s.command("status").out
	page := string(s.client(n.admin).get("/").body)
	for _, name := range []string{"empty", "missing", "open"} {
		if want := "the secret of account ci of organisation " + name; !strings.Contains(status, want) || strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s\nor in what anybody reads\n%s", want, status, page)
		}
	}
	if want := "account ci of empty for ghcr.io: "; !strings.Contains(status, want) || !strings.Contains(status, "account shared of the node itself for quay.io: ") || !strings.Contains(status, filepath.Join("organisations.d", "open", "secret")) {
		t.Errorf("the reasons are not in\n%s", status)
	}
	if strings.Contains(status, "organisation whole was") || strings.Contains(status, "of whole for") {
		t.Errorf("whole has a good secret:\n%s", status)
	}

	s.put("organisations.d/late.yaml", account("late"))
	n.await("the one that came is told", told("", "empty", "late", "missing", "open"))
	if strings.Contains(n.log.String()+status+page, "hunter2") {
		t.Error("a secret is told")
	}
	if all := s.registry.Requests(ocitest.Match{}); len(all) > 0 {
		t.Errorf("the registry was asked: %v", all)
	}
	s.caller(n, "acme").mustPull(app, s.image, "")
	if a := s.client(n.admin).get("/readyz"); a.status != http.StatusOK {
		t.Errorf("%s", a)
	}
}
