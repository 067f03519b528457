package main

import (
	"bytes"
	"strings"
	"testing"
)

// Shells know what a command may be given: organisations and registries of the
// configuration, and the images that the running node keeps.
func TestCompletion_KnowsNames(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	complete := func(words ...string) string {
		t.Helper()
		var out, err bytes.Buffer
		words = append([]string{"__complete", "--config", s.path("berth.yaml")}, words...)
		if code := (&options{}).run(t.Context(), words, &out, &err); code != exitOK {
			t.Fatalf("%v: %s", words, err.String())
		}
		found, _, ended := strings.Cut("\n"+out.String(), "\n:")
		if !ended {
			t.Errorf("%q", out.String())
		}
		return strings.Join(strings.Fields(found), " ")
	}
	if got := complete("remove", ""); got != "" {
		t.Errorf("without a node: %q", got)
	}
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	published(t, s.cacheDir())
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"remove", "gh"}, "ghcr.io/acme/app:1"},
		{[]string{"purge", ""}, "ghcr.io/acme/app:1"},
		{[]string{"prewarm", "ghcr.io/acme/app:1", "ghcr"}, "ghcr.io/acme/app:1"},
		{[]string{"diagnose", "ghcr"}, "ghcr.io ghcr.io/acme/app:1"},
		{[]string{"diagnose", "quay"}, "quay.io"},
		{[]string{"token", ""}, "acme globex"},
		{[]string{"failures", "--org", "g"}, "globex"},
		{[]string{"prewarm", "--org", ""}, "acme globex"},
	} {
		if got := complete(c.words...); got != c.want {
			t.Errorf("%v: %q, want %q", c.words, got, c.want)
		}
	}
}

// What an organisation has pulled as itself is listed for it, and nothing else.
func TestList_OfAnOrganisation(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	published(t, s.cacheDir())
	if got := s.command("list", "--org", "acme"); got.code != exitOK || !strings.Contains(got.out, "ghcr.io/acme/app:1") {
		t.Errorf("acme: %+v", got)
	}
	if got := s.command("list", "--org", "globex"); got.code != exitOK || !strings.Contains(got.out, "no images are kept") {
		t.Errorf("globex: %+v", got)
	}
	if got := s.command("list", "--organisation", "No One"); got.code != exitFailed || !strings.Contains(got.err, "is no organisation") {
		t.Errorf("%+v", got)
	}
}

// A configuration that is named and is not there leads to no other node.
func TestConfig_ThatIsNotThere(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"status", "failures", "list", "reload"} {
		var out, err bytes.Buffer
		if code := (&options{}).run(t.Context(), []string{command, "--config", "/nowhere/berth.yaml"}, &out, &err); code != exitFailed || !strings.Contains(err.String(), "/nowhere/berth.yaml") {
			t.Errorf("%s: %d, %s%s", command, code, out.String(), err.String())
		}
	}
}

// With two accounts that fit, diagnose says which flag chooses one.
func TestDiagnose_TwoAccounts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put("organisations.d/acme.yaml", strings.Replace(s.read("organisations.d/acme.yaml"), "credentials: [", "credentials: [{name: old, registry: ghcr.io, username: acme-bot, password_file: acme/token}, ", 1))
	s.serve()
	if got := s.command("diagnose", "ghcr.io", "--org", "acme"); got.code == exitOK || !strings.Contains(got.out+got.err, "--account") {
		t.Errorf("%+v", got)
	}
	if got := s.command("diagnose", "ghcr.io", "--org", "acme", "--account", "old"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
}
