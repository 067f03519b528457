package main

import (
	"net/http"
	"os"
	"strings"
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
		"half-written": func(_ *testing.T, s *stage, file string) { s.write(file, "acme-\nsecret") },
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
