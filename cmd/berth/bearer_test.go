package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// With admin.token_file metrics and the page are for whoever shows the token, which is
// read each time; where it cannot be read, for nobody. Whether the node is well is told
// to everybody.
func TestBearer_ClosesTheOperatorsAddress(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.write(s.path("scrape"), "canary-token-0001\n")
	s.save(strings.Replace(s.read("berth.yaml"), "admin: {", "admin: {token_file: scrape, ", 1))
	n := s.serve()
	c := s.client(n.admin)
	wants := func(what string, status int, header ...string) {
		t.Helper()
		for _, path := range []string{"/metrics", "/", "/page.css", "/none"} {
			a := c.get(path, header...)
			if got := a.status; got != status && (status != http.StatusOK || path != "/none") {
				t.Errorf("%s: %s", what, a)
			}
			if a.status == http.StatusUnauthorized && a.header.Get("WWW-Authenticate") != `Bearer realm="berth"` {
				t.Errorf("%s: %v", what, a.header)
			}
			if a.status != http.StatusOK && (strings.Contains(string(a.body), "acme") || strings.Contains(string(a.body), "canary")) {
				t.Errorf("%s: %s", what, a)
			}
		}
	}
	wants("nobody", http.StatusUnauthorized)
	wants("a wrong token", http.StatusUnauthorized, "Authorization", "Bearer canary-token-0002")
	wants("no token", http.StatusUnauthorized, "Authorization", "Bearer ")
	wants("another scheme", http.StatusUnauthorized, "Authorization", "Basic canary-token-0001")
	wants("the token", http.StatusOK, "Authorization", "Bearer canary-token-0001")
	s.put("scrape", "canary-token-0003\n")
	wants("the old token", http.StatusUnauthorized, "Authorization", "Bearer canary-token-0001")
	wants("the new token", http.StatusOK, "Authorization", "bearer canary-token-0003")
	if a := c.get("/", "Authorization", "Bearer canary-token-0003"); !strings.Contains(string(a.body), "acme") {
		t.Error("to whoever shows the token the page names no organisation")
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := c.get(path); a.status != http.StatusOK {
			t.Errorf("%s", a)
		}
	}
	if err := os.Chmod(s.path("scrape"), 0o644); err != nil {
		t.Fatal(err)
	}
	wants("a token that others may read", http.StatusServiceUnavailable, "Authorization", "Bearer canary-token-0003")
	n.await("it is told", func() bool { return n.said("ERROR", "the operators' address answers nobody") == 1 })
	if strings.Contains(n.log.String(), "canary-token") {
		t.Error("a token is in the log")
	}
	if got := s.command("check"); got.code != exitFailed || !strings.Contains(got.err, "admin.token_file") {
		t.Errorf("%+v", got)
	}
}

// What a token and a web configuration file cannot be together, or a token alone.
func TestBearer_IsChecked(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.certificate("one")
	config := s.read("berth.yaml")
	s.put("web.yaml", tlsPart+"basic_auth_users: {prometheus: '"+scrapeHash+"'}\n")
	for what, c := range map[string]struct{ admin, token, says string }{
		"two logins":       {"token_file: scrape, web_config_file: web.yaml, ", "canary-token-0001\n", "basic_auth_users"},
		"a short one":      {"token_file: scrape, ", "canary\n", "holds no token"},
		"an empty one":     {"token_file: scrape, ", "\n", "holds no token"},
		"with a space":     {"token_file: scrape, ", "canary token of 2026\n", "holds no token"},
		"one that is gone": {"token_file: none, ", "canary-token-0001\n", "no such file"},
	} {
		s.put("scrape", c.token)
		s.save(strings.Replace(config, "admin: {", "admin: {"+c.admin, 1))
		got := s.command("check")
		if got.code != exitFailed || !strings.Contains(got.err, c.says) || strings.Contains(got.out+got.err, "canary") {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// Where anybody on the node reads the operators' address, its page names no organisation,
// and check and status say that the metrics do.
func TestOpenMetrics_AreSaidToBe(t *testing.T) {
	t.Parallel()
	const says = "every program on this node can read the metrics"
	s := newStage(t)
	s.write(s.path("scrape"), "canary-token-0001\n")
	s.dropIn("globex", "registries: {own.globex.example: {endpoint: \"https://own.globex.example\"}}")
	n := s.serve()
	s.caller(n, "globex").get("/v2/own.globex.example/app/manifests/1")
	s.caller(n, "acme").get("/v2/ghcr.io/globex/app/manifests/1")
	if a := s.client(n.admin).get("/"); a.status != http.StatusOK || strings.Contains(string(a.body), "acme") || strings.Contains(string(a.body), "globex") {
		t.Errorf("the page names an organisation:\n%s", a.body)
	}
	if got := s.command("check"); got.code != exitOK || !strings.Contains(got.err+got.out, says) {
		t.Errorf("%+v", got)
	}
	if got := s.command("status", "--socket", s.path("admin.sock")); !strings.Contains(got.out, says) {
		t.Errorf("%+v", got)
	}
	s.save(strings.Replace(s.read("berth.yaml"), "admin: {", "admin: {token_file: scrape, ", 1))
	if got := s.command("check"); got.code != exitOK || strings.Contains(got.err+got.out, says) {
		t.Errorf("%+v", got)
	}
}
