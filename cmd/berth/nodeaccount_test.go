package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// newNodeAccount is a stage whose registry has a public and a private image, and
// where this node has an account of its own. More is of the registry's entry.
func newNodeAccount(t *testing.T, secret, more string) (s *stage, public ocitest.Pushed) {
	t.Helper()
	s = newStage(t)
	s.registry.AddUser("node-bot", "node-secret", "lib/**")
	public = s.registry.AddImage("lib/redis", "7", ocitest.Image{Layers: []int64{10_000}, Seed: 7})
	s.registry.SetPrivate("lib/redis", false)
	s.write(s.path("node-secret"), secret+"\n")
	s.save(strings.Replace(s.read("berth.yaml"), fmt.Sprintf("{endpoint: %q}", s.registry.URL()),
		fmt.Sprintf("{endpoint: %q, credential: {username: node-bot, password_file: node-secret}%s}", s.registry.URL(), more), 1))
	return s, public
}

// logins are those tries with an account at the token endpoint.
func (s *stage) logins() int {
	return s.registry.Count(ocitest.Match{Kind: ocitest.Token, Where: func(r ocitest.Request) bool { return r.Header.Get("Authorization") != "" }})
}

const (
	redis    = "ghcr.io/lib/redis"
	nodesOwn = `berth_credential_ok{account="shared",organisation="-",registry="ghcr.io"}`
)

// A bad token of this node's own account stops no public image, is tried once and
// then left alone, and is said wherever somebody looks. Renewed, it shows at once.
func TestNodeAccount_ThatIsRefused(t *testing.T) {
	t.Parallel()
	s, public := newNodeAccount(t, "wrong", "")
	n := s.serve()
	nobody, acme := s.nobody(n), s.caller(n, "acme")
	nobody.mustPull(redis, public, "")
	a := nobody.get("/v2/" + redis + "/manifests/7")
	if w := a.header.Get("Warning"); !strings.HasPrefix(w, "299 ") || !strings.Contains(w, "refused the account under registries.ghcr.io.credential") {
		t.Errorf("the warning is %q", w)
	}
	acme.mustPull(redis, public, "") // by its own account, which is good
	s.metric(n, nodesOwn, 0)
	for _, said := range []string{"! the node's own account was refused by ghcr.io: renew its token", "refused until"} {
		if got := s.command("status"); !strings.Contains(got.out, said) {
			t.Errorf("%q is not in\n%s", said, got.out)
		}
	}
	// What is not public fails by the account, which whoever runs the node can renew.
	refused := nobody.mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)
	if !strings.Contains(refused.message(), `this node: ghcr.io refused the account under registries.ghcr.io.credential (401)`) {
		t.Error(refused.message())
	}

	// The command of the alert says what is wrong, and where the secret is new that
	// it works, for pulls too. Until somebody tries, it is said to be new.
	if got := s.command("diagnose", "ghcr.io"); got.code != exitFailed || !strings.Contains(got.out, "unauthorized") {
		t.Errorf("%+v", got)
	}
	s.put("node-secret", "node-secret\n")
	n.await("the new secret", func() bool { return n.sample(nodesOwn) == -1 })
	if got := s.command("status"); !strings.Contains(got.out, "new secret, not tried yet") || strings.Contains(got.out, "was refused by") {
		t.Error(got.out)
	}
	if got := s.command("diagnose", "ghcr.io"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	s.metric(n, nodesOwn, 1)
	nobody.mustPull(redis, public, "")
	if w := nobody.get("/v2/" + redis + "/manifests/7").header.Get("Warning"); w != "" {
		t.Errorf("the warning is %q", w)
	}
}

// Five pulls make two logins: one for what is pulled, and, since that might be about the
// repository, one for nothing. So they do where the operator wants no pull to go on without
// the account, and then each says why.
func TestNodeAccount_IsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, more := range []string{"", ", anonymous_fallback: false"} {
		t.Run(more, func(t *testing.T) {
			t.Parallel()
			s, public := newNodeAccount(t, "wrong", more)
			n := s.serve()
			for range 5 {
				if more == "" {
					s.nobody(n).mustPull(redis, public, "")
					s.nobody(n).get("/v2/" + redis + "/tags/list")
					continue
				}
				a := s.nobody(n).mustRefuse("/v2/"+redis+"/manifests/7", http.StatusForbidden, oci.CodeDenied)
				if !strings.Contains(a.message(), `this node: ghcr.io refused the account under registries.ghcr.io.credential (401)`) {
					t.Error(a.message())
				}
			}
			if got := s.logins(); got != 2 {
				t.Errorf("%d logins, want 2", got)
			}
		})
	}
}

// Refusals of single repositories hold nothing back, and do not claim that there is
// no account.
func TestNodeAccount_ThatMayNotReadARepository(t *testing.T) {
	t.Parallel()
	s, public := newNodeAccount(t, "node-secret", "")
	n := s.serve()
	for range 3 {
		a := s.nobody(n).mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)
		if !strings.Contains(a.message(), "this node's account may not read it either") || strings.Contains(a.message(), "no account for") {
			t.Error(a.message())
		}
	}
	s.nobody(n).mustPull(redis, public, "")
	s.metric(n, nodesOwn, 1)
	s.metric(n, `berth_cooldown_until_timestamp_seconds{account="shared",organisation="-",registry="ghcr.io"}`, -1)
}

// A secret of the node's own account that is not there is no better, and no worse,
// than one that is refused.
func TestNodeAccount_WithoutASecret(t *testing.T) {
	t.Parallel()
	s, public := newNodeAccount(t, "node-secret", "")
	s.remove("node-secret")
	n := s.serve()
	s.nobody(n).mustPull(redis, public, "")
	if w := s.nobody(n).get("/v2/" + redis + "/manifests/7").header.Get("Warning"); !strings.Contains(w, "the secret of the account under registries.ghcr.io.credential") {
		t.Errorf("the warning is %q", w)
	}
	if got := s.logins(); got != 0 {
		t.Errorf("%d logins", got)
	}
	s.reload(exitFailed)
	s.metric(n, nodesOwn, 0)
}

// The node's own account may be a credential helper's too: refused, it stops no public
// image and is found out once, and the next secret that the helper has is used after a reload.
func TestNodeAccount_OfAHelper(t *testing.T) {
	s, public := newNodeAccount(t, "", "")
	bin := t.TempDir()
	says := filepath.Join(bin, "says")
	s.write(says, "wrong")
	script := fmt.Sprintf("#!/bin/sh\necho '{\"Username\":\"node-bot\",\"Secret\":\"'$(cat %s)'\"}'\n", says)
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-made-up"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s.save("helpers: [made-up]\n" + strings.Replace(s.read("berth.yaml"), "{username: node-bot, password_file: node-secret}", "{helper: {name: made-up}}", 1))
	n := s.serve()
	for range 5 {
		s.nobody(n).mustPull(redis, public, "")
	}
	s.metric(n, nodesOwn, 0)
	if got := s.logins(); got != 2 {
		t.Errorf("%d logins", got)
	}
	s.write(says, "node-secret")
	s.clock.forward(2 * time.Minute) // a younger answer is not asked for again
	s.reload(exitOK)
	s.metric(n, nodesOwn, -1) // not tried yet
	s.registry.ExpireTokens()
	s.clock.forward(6 * time.Minute)
	s.nobody(n).mustPull(redis, public, "")
	s.metric(n, nodesOwn, 1)
	if got := s.logins(); got != 3 {
		t.Errorf("%d logins", got)
	}
}
