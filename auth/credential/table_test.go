package credential

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/internal/secret"
)

func TestLookup(t *testing.T) {
	c := mustCredentials(t, TableOptions{Key: NewKey(), Entries: []Entry{
		entryFor("acme", "all", "ghcr.io"),
		entryFor("acme", "team", "ghcr.io", "acme/**"),
		entryFor("acme", "app", "ghcr.io", "acme/app", "acme/tool"),
		entryFor("acme", "twin", "ghcr.io", "acme/app"),
		entryFor("acme", "hub", "docker.io", "acme/*"),
		entryFor("other", "ci", "ghcr.io"),
		entryFor("", "bot", "docker.io"),
	}})
	for _, tc := range []struct{ organisation, account, registry, repo, want string }{
		{"acme", "", "ghcr.io", "acme/app", "app"}, // before twin: configured first
		{"acme", "", "ghcr.io", "acme/tool", "app"},
		{"acme", "", "ghcr.io", "acme/other", "team"},
		{"acme", "", "ghcr.io", "acme", "team"},
		{"acme", "", "ghcr.io", "someone/else", "all"},
		{"acme", "twin", "ghcr.io", "acme/app", "twin"},
		{"acme", "all", "ghcr.io", "acme/app", "all"},
		{"acme", "team", "ghcr.io", "someone/else", ""}, // it has that account, but not for this: shared principal
		{"acme", "", "docker.io", "acme/app", "hub"},
		{"acme", "", "docker.io", "library/nginx", ""},
		{"acme", "", "quay.io", "acme/app", ""},
		{"acme", "hub", "quay.io", "acme/app", ""}, // one login serves every registry
		{"other", "", "ghcr.io", "acme/app", "ci"},
		{"other", "", "docker.io", "acme/app", ""},
		{"", "", "docker.io", "library/nginx", "bot"}, // the shared principal's own
		{"", "", "ghcr.io", "acme/app", ""},
		{"nobody", "", "ghcr.io", "acme/app", ""},
		{"acme", "", "GHCR.io", "acme/app", ""}, // names are canonical already
	} {
		cred, err := c.Lookup(t.Context(), tc.organisation, tc.account, tc.registry, tc.repo)
		got := ""
		if cred != nil {
			got = cred.Name
			if cred.Organisation != tc.organisation || cred.Registry != tc.registry {
				t.Errorf("%+v: a credential of %q for %q", tc, cred.Organisation, cred.Registry)
			}
			if cred.Password.Reveal() != "secret of "+tc.organisation+" "+got || cred.Fingerprint == "" {
				t.Errorf("%+v: the wrong secret, or no fingerprint", tc)
			}
		}
		if err != nil || got != tc.want {
			t.Errorf("%+v: got %q, %v", tc, got, err)
		}
	}
	for _, tc := range []struct{ organisation, account, registry, says string }{
		{"acme", "hub", "ghcr.io", `organisation acme has no account "hub" for ghcr.io (it has: all, app, team, twin)`},
		{"acme", "ci", "ghcr.io", "it has: all, app, team, twin"}, // another organisation's
		{"acme", "ci", "quay.io", `no account "ci" for quay.io (it has: none)`},
		{"nobody", "all", "ghcr.io", "it has: none"},
		{"acme", "x\n\"y", "ghcr.io", "has no account"},
	} {
		cred, err := c.Lookup(t.Context(), tc.organisation, tc.account, tc.registry, "acme/app")
		e := ocitest.AsClass(t, err, oci.Denied)
		if cred != nil || e.HTTPStatus() != 403 || !strings.Contains(e.Message, tc.says) {
			t.Errorf("%+v: got %v, %q", tc, cred, e.Message)
		}
		if strings.Contains(e.Message, "secret of") {
			t.Error("a secret is in the message")
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	c := mustCredentials(t, TableOptions{CheckEvery: time.Hour, Entries: []Entry{
		entryFor("acme", "all", "ghcr.io"), entryFor("acme", "app", "ghcr.io", "**/app", "acme/**/x"),
	}})
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Lookup(t.Context(), "acme", "", "ghcr.io", "acme/some/app"); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for each look-up", n)
	}
}

func TestNewCredentialsRefuses(t *testing.T) {
	bad := entryFor("acme", "ci", "ghcr.io", "acme/x*")
	if _, err := NewTable(TableOptions{Entries: []Entry{bad}}); err == nil || !strings.Contains(err.Error(), `"ci"`) {
		t.Errorf("a bad pattern: %v", err)
	}
	bad = entryFor("acme", "ci", "ghcr.io")
	bad.Source = nil
	if _, err := NewTable(TableOptions{Entries: []Entry{bad}}); err == nil {
		t.Error("no source was taken")
	}
}

// A changed secret is a new credential at once; an unchanged one stays the very
// same, without asking the source each time.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("alpha\n")
	c, logs := ocitest.NewClock(), &ocitest.Log{}
	e := entryFor("acme", "ci", "ghcr.io")
	e.Source = PasswordFile(File{Path: path}, "bot")
	creds := mustCredentials(t, TableOptions{Key: NewKey(), Entries: []Entry{e}, Now: c.Now, Logger: logs.Logger()})
	look := func() *Credential {
		t.Helper()
		cred, err := creds.Lookup(t.Context(), "acme", "", "ghcr.io", "x")
		if err != nil {
			t.Fatal(err)
		}
		return cred
	}
	first := look()
	if first.Password.Reveal() != "alpha" {
		t.Fatalf("password %q", first.Password.Reveal())
	}
	c.Advance(time.Second)
	if look() != first {
		t.Error("the same secret became another credential")
	}
	write("bravo\n") // of the same length, in the same file, within one tick of the kernel's clock
	c.Advance(time.Second)
	second := look()
	if second.Password.Reveal() != "bravo" || second.Fingerprint == first.Fingerprint {
		t.Error("a changed secret went unseen")
	}
	if first.Password.Reveal() != "alpha" {
		t.Error("a credential in use was changed")
	}
	for name, spoil := range map[string]func(){
		"empty":    func() { write("") },
		"missing":  func() { _ = os.Remove(path) },
		"loose":    func() { write("delta"); _ = os.Chmod(path, 0o644) },
		"a folder": func() { _ = os.Mkdir(path, 0o700) },
	} {
		_ = os.RemoveAll(path)
		spoil()
		c.Advance(time.Second)
		if look() != second {
			t.Errorf("%s: the good secret was given up", name)
		}
		if problems := creds.Check(t.Context()); len(problems) != 1 || !strings.Contains(problems[0].Error(), path) {
			t.Errorf("%s: problems %v", name, problems)
		} else if help := map[string]string{"missing": "write it there, or correct its name", "loose": "chmod 0640"}[name]; !strings.Contains(problems[0].Error(), help) {
			t.Errorf("%s: what to do is not in %v", name, problems[0])
		}
	}
	_ = os.RemoveAll(path)
	write("gamma")
	c.Advance(time.Second)
	if look().Password.Reveal() != "gamma" || len(creds.Check(t.Context())) != 0 {
		t.Error("a mended file was not taken")
	}
	for _, s := range []string{"alpha", "bravo", "delta", "gamma"} {
		if strings.Contains(logs.String(), s) {
			t.Errorf("secret %q is in the log: %s", s, logs)
		}
	}
	if !strings.Contains(logs.String(), "a secret cannot be used") || !strings.Contains(logs.String(), "can be used again") {
		t.Errorf("the log says nothing: %s", logs)
	}
}

func TestUnreadableSecret(t *testing.T) {
	e := entryFor("acme", "ci", "ghcr.io")
	e.Source = PasswordFile(File{Path: filepath.Join(t.TempDir(), "none")}, "bot")
	c := mustCredentials(t, TableOptions{Entries: []Entry{e, entryFor("other", "ci", "ghcr.io")}})
	_, err := c.Lookup(t.Context(), "acme", "", "ghcr.io", "x")
	e1 := ocitest.AsClass(t, err, oci.Caller)
	if e1.HTTPStatus() != 503 || !strings.Contains(e1.Message, "organisation acme") || strings.Contains(e1.Message, "none") {
		t.Errorf("%d %s", e1.HTTPStatus(), e1.Message)
	}
	if _, err := c.Lookup(t.Context(), "other", "", "ghcr.io", "x"); err != nil {
		t.Errorf("another organisation is out, too: %v", err)
	}
}

// A caller that leaves while a source is asked is no verdict on the secret.
func TestSourceCancelled(t *testing.T) {
	e := entryFor("acme", "ci", "ghcr.io")
	e.Source = SourceFunc(func(ctx context.Context) (Login, error) {
		if err := ctx.Err(); err != nil {
			return Login{}, err
		}
		return Login{Username: secret.New("u"), Password: secret.New("p"), Entry: "helper"}, nil
	})
	key := NewKey()
	c := mustCredentials(t, TableOptions{Key: key, Entries: []Entry{e}})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Lookup(gone, "acme", "", "ghcr.io", "x")
	ocitest.WantClass(t, err, oci.ClientGone)
	cred, err := c.Lookup(t.Context(), "acme", "", "ghcr.io", "x")
	if err != nil {
		t.Fatal(err)
	}
	if cred.Fingerprint != key.entryFingerprint(e.Origin, "u", "helper") {
		t.Error("a helper's credential is not known by its entry")
	}
}

// Under load, user name and secret always belong together, and one source is
// asked by one at a time.
func TestRotationUnderLoad(t *testing.T) {
	var n, asking atomic.Int64
	e := entryFor("acme", "ci", "ghcr.io")
	e.Source = SourceFunc(func(context.Context) (Login, error) {
		if asking.Add(1) != 1 {
			return Login{}, errors.New("asked twice at once")
		}
		defer asking.Add(-1)
		s := strings.Repeat("x", int(n.Add(1))%50+1)
		return Login{Username: secret.New(s), Password: secret.New("p" + s)}, nil
	})
	creds := mustCredentials(t, TableOptions{Key: NewKey(), Entries: []Entry{e}, CheckEvery: time.Nanosecond})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				cred, err := creds.Lookup(t.Context(), "acme", "", "ghcr.io", "x")
				if err != nil {
					t.Error(err)
					return
				}
				if user, password := cred.UserAndPassword(); password != "p"+user {
					t.Errorf("user %q with password %q", user, password)
				}
			}
		})
	}
	all.Wait()
	if problems := creds.Check(t.Context()); len(problems) > 0 || n.Load() < 2 {
		t.Errorf("%v after %d rotations", problems, n.Load())
	}
}

func TestCredentialView(t *testing.T) {
	var nobody *Credential
	if !nobody.Shared() || nobody.Principal() != (oci.Principal{}) || nobody.String() == "" {
		t.Error("nobody is not the shared principal")
	}
	shared := testAccount("", "bot", "u", "p")
	if !shared.Shared() || !shared.Principal().Shared() || shared.Principal().Fingerprint == "" {
		t.Error("the registry's own credential is not in the shared principal")
	}
	own := testAccount("acme", "ci", "u", "p")
	if own.Shared() || own.Principal() != (oci.Principal{Organisation: "acme", Fingerprint: own.Fingerprint}) {
		t.Error("an organisation's credential has the wrong principal")
	}
	if user, password := testAccount("acme", "do", "", "dop_v1").UserAndPassword(); user != "dop_v1" || password != "dop_v1" {
		t.Error("a token alone does not serve as both")
	}
}
