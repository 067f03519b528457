package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/ocitest"
)

const ciOK = `berth_credential_ok{account="ci",organisation="acme",registry="ghcr.io"}`

// A secret that is gone is gone within a minute, however that came about: also for
// what is kept, in the exit code of reload, the status and the metric. Until then the
// one before it serves, since whoever replaces a file may take it away first.
func TestSecret_ThatIsGone(t *testing.T) {
	t.Parallel()
	for how, take := range map[string]func(t *testing.T, s *stage, file string){
		"removed": func(_ *testing.T, s *stage, _ string) { s.remove("organisations.d/acme/token") },
		"emptied": func(_ *testing.T, s *stage, file string) { s.write(file, "") },
		"opened to others": func(t *testing.T, _ *stage, file string) {
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"a folder in its place": func(t *testing.T, s *stage, file string) {
			s.remove("organisations.d/acme/token")
			if err := os.Mkdir(file, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"its folder removed": func(t *testing.T, s *stage, _ string) {
			if err := os.RemoveAll(s.path("organisations.d/acme")); err != nil {
				t.Fatal(err)
			}
		},
		"a link to nowhere": func(t *testing.T, s *stage, file string) {
			s.remove("organisations.d/acme/token")
			if err := os.Symlink("nowhere", file); err != nil {
				t.Fatal(err)
			}
		},
		"a link out of the folder": func(t *testing.T, s *stage, file string) {
			s.remove("organisations.d/acme/token")
			if err := os.Symlink("../globex/token", file); err != nil {
				t.Fatal(err)
			}
		},
		"a pipe in its place": func(t *testing.T, s *stage, file string) {
			s.remove("organisations.d/acme/token")
			if err := syscall.Mkfifo(file, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a newline only": func(_ *testing.T, s *stage, file string) { s.write(file, "\n") },
		"far too large":  func(_ *testing.T, s *stage, file string) { s.write(file, strings.Repeat("x", 1<<20)) },
		"half-written":   func(_ *testing.T, s *stage, file string) { s.write(file, "acme-\nsecret") },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			n := s.serve()
			acme := s.caller(n, "acme")
			acme.mustPull(app, s.image, "")
			file := s.path("organisations.d/acme/token")
			take(t, s, file)
			s.reload(exitFailed)
			s.registry.ExpireTokens()
			s.clock.forward(10 * time.Second)
			acme.mustPull(app, s.image, "")
			s.metric(n, ciOK, 1)
			s.clock.forward(40 * time.Second)
			s.reload(exitFailed)
			s.metric(n, ciOK, 0)
			if got := s.command("status"); !strings.Contains(got.out, "! the secret of account ci of organisation acme for ghcr.io cannot be used") || !strings.Contains(got.out, "no secret") {
				t.Error(got.out)
			}
			logins := s.registry.Count(ocitest.Match{Kind: ocitest.Token, User: "acme-bot"})
			if a := acme.get(manifest); a.status != http.StatusServiceUnavailable || !strings.Contains(a.message(), `the secret of account "ci" for ghcr.io cannot be read`) {
				t.Errorf("what is kept: %s", a)
			}
			s.caller(n, "globex").mustPull(app, s.image, "")
			if got := s.registry.Count(ocitest.Match{Kind: ocitest.Token, User: "acme-bot"}); got != logins {
				t.Error("the secret that is gone is used")
			}
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(s.path("organisations.d/acme"), 0o700); err != nil {
				t.Fatal(err)
			}
			s.put("organisations.d/acme/token", "acme-secret\n")
			s.reload(exitOK)
			s.metric(n, ciOK, 1) // the registry has taken this very secret before
			acme.mustPull(app, s.image, "")
		})
	}
}

// Nobody has to pull, or to reload, for a secret that is gone to show.
func TestSecret_ThatIsGoneShowsByItself(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.remove("organisations.d/acme/token")
	n.await("the file is missed", func() bool {
		return strings.Contains(s.command("status").out, "the new secret of account ci of organisation acme for ghcr.io cannot be used")
	})
	s.clock.forward(31 * time.Second)
	n.await("the account has none", // by the next look at everything
		func() bool { return n.sample(ciOK) == 0 })
}

// A renewed secret of an account that was refused shows as what it is: neither
// refused nor taken, until it has been tried.
func TestSecret_ThatIsRenewed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	s.registry.SetPassword("acme-bot", "next-secret")
	acme.mustRefuse(manifest, http.StatusForbidden, "DENIED")
	s.metric(n, ciOK, 0)
	s.put("organisations.d/acme/token", "next-secret\n")
	n.await("the new secret", func() bool { return n.sample(ciOK) == -1 })
	s.metric(n, `berth_cooldown_until_timestamp_seconds{account="ci",organisation="acme",registry="ghcr.io"}`, 0)
	if got := s.command("status"); !strings.Contains(got.out, "new secret, not tried yet") || strings.Contains(got.out, "was refused by") {
		t.Error(got.out)
	}
	acme.mustPull(app, s.image, "")
	s.metric(n, ciOK, 1)
	if got := s.command("status"); strings.Contains(got.out, "not tried yet") {
		t.Error(got.out)
	}
}

// So is one that a docker configuration no longer has, or has in a form that cannot be
// used.
func TestSecret_ThatIsGoneFromADockerConfig(t *testing.T) {
	t.Parallel()
	for how, text := range map[string]string{
		"empty": "", "cut off": `{"auths":{"ghcr.io":{"auth":`, "no logins": "{}", "another registry's login": `{"auths":{"quay.io":{"auth":"eDp5"}}}`,
		"left by docker login": `{"auths":{"ghcr.io":{}},"credsStore":"desktop"}`, "left to a helper": `{"credHelpers":{"ghcr.io":"gcloud"}}`,
		"an identity token": `{"auths":{"ghcr.io":{"identitytoken":"x"}}}`, "no password": `{"auths":{"ghcr.io":{"auth":"YWNtZS1ib3Q6"}}}`,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			login := fmt.Sprintf(`{"auths":{"ghcr.io":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte("acme-bot:acme-secret")))
			s.put("organisations.d/acme/config.json", login)
			s.put("organisations.d/acme.yaml", strings.Replace(s.read("organisations.d/acme.yaml"), "username: acme-bot, password_file: acme/token", "docker_config: acme/config.json", 1))
			n := s.serve()
			acme := s.caller(n, "acme")
			acme.mustPull(app, s.image, "")
			s.put("organisations.d/acme/config.json", text)
			s.reload(exitFailed)
			s.clock.forward(50 * time.Second)
			s.reload(exitFailed)
			s.metric(n, ciOK, 0)
			if a := acme.get(manifest); a.status != http.StatusServiceUnavailable || strings.Contains(a.message(), "acme-secret") {
				t.Errorf("what is kept: %s", a)
			}
			s.put("organisations.d/acme/config.json", login)
			s.reload(exitOK)
			s.metric(n, ciOK, 1)
			acme.mustPull(app, s.image, "")
		})
	}
}

// doc/secrets.md: an agent of Vault or OpenBao writes each new secret beside the old one and
// renames it. It is taken up by itself, and no pull of the organisation fails that comes
// after it.
func TestSecret_FromAnAgent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	for i := range 6 {
		secret := fmt.Sprintf("lease-%d-of-the-agent", i)
		acme.mustPull(app, s.image, "")
		s.metric(n, ciOK, 1)
		s.registry.SetPassword("acme-bot", secret)
		s.registry.ExpireTokens()
		// As the agent does: a file of another name in the same folder, its rights, a rename.
		beside := s.path("organisations.d/acme/.token.tmp")
		s.write(beside, secret)
		if err := os.Chmod(beside, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(beside, s.path("organisations.d/acme/token")); err != nil {
			t.Fatal(err)
		}
		n.await("the new secret", func() bool { return n.sample(ciOK) == -1 })
		if got := s.command("status"); strings.Contains(got.out, "lease-") || !strings.Contains(got.out, "new secret, not tried yet") {
			t.Errorf("%s", got.out)
		}
	}
	acme.mustPull(app, s.image, "")
	if got := s.registry.Count(ocitest.Match{Kind: ocitest.Token, Status: http.StatusUnauthorized}); got != 0 {
		t.Errorf("%d logins with an old secret", got)
	}
}
