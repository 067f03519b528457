package main

import (
	"crypto/tls"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// bcrypt of "scrape".
const scrapeHash = "$2a$04$vVhLOWQWrga2KjQ1shFOXObtS8l191b/eJ6qZQqcEokyg3ua26jzG"

const tlsPart = "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"

// The operators' address is served over TLS to those who know a password, and a
// renewed file is used at once.
func TestWebConfigFile(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.certificate("one")
	s.put("web.yaml", tlsPart+"basic_auth_users: {prometheus: '"+scrapeHash+"'}\n")
	s.save(strings.Replace(s.read("berth.yaml"), "admin: {", "admin: {web_config_file: web.yaml, ", 1))
	n := s.serve()
	address := strings.TrimPrefix(n.admin, "http://")
	scraper := &client{t: t, base: "https://" + address, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}}
	if a := scraper.get("/metrics"); a.status != http.StatusUnauthorized || len(a.body) > 100 {
		t.Errorf("a stranger: %s", a)
	}
	if a := s.client("http://" + address).get("/metrics"); a.status != http.StatusBadRequest {
		t.Errorf("without TLS: %s", a)
	}
	scraper.user, scraper.password = "prometheus", "scrape"
	if a := scraper.get("/metrics"); a.status != http.StatusOK || !strings.Contains(string(a.body), "berth_build_info") && !strings.Contains(string(a.body), "go_goroutines") {
		t.Errorf("%s", a)
	}
	s.certificate("two")
	if got := servedBy(t, address); got != "two" {
		t.Errorf("served with %q", got)
	}
}

// A file that cannot be used closes the operators' address. Pulls go on.
func TestWebConfigFileThatIsBad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put("web.yaml", "tls_server_config: {cert_file: no-such}\n")
	s.save(strings.Replace(s.read("berth.yaml"), "admin: {", "admin: {web_config_file: web.yaml, ", 1))
	n := s.serve()
	n.await("it says so", func() bool { return strings.Contains(n.log.String(), "nothing is shown or ordered here any more") })
	s.caller(n, "acme").mustPull(app, s.image, "")
}

// A listener's key is kept like a password.
func TestKeyOfACertificate(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.certificate("one")
	if err := os.Chmod(s.path("tls.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	s.main("")
	s.save(strings.Replace(s.read("berth.yaml"), "callers: token}", "callers: token, tls: {cert_file: tls.crt, key_file: tls.key}}", 1))
	if got := s.command("check"); got.code != exitOK { // its group is this program's own
		t.Errorf("%+v", got)
	}
	if err := os.Chmod(s.path("tls.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := s.command("check"); got.code != exitFailed || !strings.Contains(got.err, "tls.key has mode 0644") {
		t.Errorf("%+v", got)
	}
	code, stderr := ended(t, nil, "serve", "--config", s.path("berth.yaml"))
	if code != exitFailed || !strings.Contains(stderr, "tls.key has mode 0644") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// Only what the service reads is looked at as its user: a configuration that root tries by
// hand is root's.
func TestCheckAs_OnlyWhatTheServiceReads(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]bool{
		"/etc/berth/config.yaml": true, "/etc/berth/organisations.d/acme.yaml": true, "/etc/berth/./new.yaml": true,
		"/etc/berth.yaml": false, "/root/berth.yaml": false, "berth.yaml": false, "/etc/berth/../berth.yaml": false,
	} {
		if got := ofTheService(file); got != want {
			t.Errorf("%s: %v", file, got)
		}
	}
}

// For root, files are looked at as the node will: as the service's user.
func TestCheckAsTheServicesUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "berth-check-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	id, err := credentialOf(nobody)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path, secret := filepath.Join(dir, "berth.yaml"), filepath.Join(dir, "hub")
	for file, text := range map[string]string{path: "registries: {docker.io: {credential: {username: bot, password_file: hub}}}\n", secret: "hunter2\n"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	berth, err := exec.LookPath("berth")
	if err != nil {
		t.Fatal(err)
	}
	check := func(as string) (string, error) {
		out, err := exec.CommandContext(soon(t), berth, "check", "--user", as, path).CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct {
		mode         os.FileMode
		group        int
		root, nobody string // what is wrong
	}{
		{0o600, 0, "", "permission denied"},
		{0o640, int(id.Gid), "which is not the one that berth runs as", ""},
		{0o640, 0, "", "permission denied"},
		{0o644, 0, "others may use it", "others may use it"},
	} {
		if err := os.Chown(secret, 0, c.group); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(secret, c.mode); err != nil {
			t.Fatal(err)
		}
		for as, want := range map[string]string{"root": c.root, "nobody": c.nobody} {
			out, err := check(as)
			if (err == nil) != (want == "") || !strings.Contains(out, want) || strings.Contains(out, "hunter2") {
				t.Errorf("mode %o, group %d, as %s: %v, want %q:\n%s", c.mode, c.group, as, err, want, out)
			}
		}
	}
}
