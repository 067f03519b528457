package auth

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// helperProgram puts docker-credential-NAME into PATH. Each run appends a line
// to the file "runs" beside it, with what it was asked and its environment.
func helperProgram(t *testing.T, name, script string) (runs func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "runs")
	text := fmt.Sprintf("#!/bin/sh\nread server\necho \"$1 $server $(env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^PATH=' | tr '\\n' ' ')\" >> %s\n%s\n", log, script)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		data, err := os.ReadFile(log)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

func TestHelper(t *testing.T) {
	t.Setenv("SECRET_OF_THE_SERVICE", "must not be seen")
	runs := helperProgram(t, "ecr-login", `echo '{"ServerURL":"x","Username":"AWS","Secret":"s3cr3t"}'`)
	now := time.Now()
	s := HelperSource(Helper{
		Name: "ecr-login", Server: "1234.dkr.ecr.eu-west-1.amazonaws.com",
		Env: map[string]string{"AWS_PROFILE": "acme"}, Now: func() time.Time { return now },
	})
	for range 3 {
		login, err := s.Login(t.Context())
		if err != nil || login.Username.Reveal() != "AWS" || login.Password.Reveal() != "s3cr3t" || login.Entry == "" {
			t.Fatalf("%v, %v", login, err)
		}
	}
	if got := runs(); len(got) != 1 || got[0] != "get 1234.dkr.ecr.eu-west-1.amazonaws.com AWS_PROFILE=acme" {
		t.Errorf("runs: %q", got)
	}
	now = now.Add(helperKeeps)
	if _, err := s.Login(t.Context()); err != nil || len(runs()) != 2 {
		t.Errorf("after its time: %v, %d runs", err, len(runs()))
	}
}

func TestHelperTrouble(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"fails":        {`echo s3cr3t; echo s3cr3t >&2; exit 1`, "it failed for ghcr.io"},
		"nonsense":     {`echo s3cr3t`, "not the JSON"},
		"empty":        {`echo '{"Username":"x","Secret":""}'`, "no secret for ghcr.io"},
		"identity":     {`echo '{"Username":"<token>","Secret":"s3cr3t"}'`, "identity token"},
		"far too much": {`head -c 1000000 /dev/zero`, "it failed"},
	} {
		t.Run(name, func(t *testing.T) {
			helperProgram(t, "odd", c.script)
			_, err := HelperSource(Helper{Name: "odd", Server: "ghcr.io"}).Login(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("got %v, want %q and no secret", err, c.want)
			}
		})
	}
	_, err := HelperSource(Helper{Name: "not-there", Server: "ghcr.io"}).Login(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not in PATH") {
		t.Errorf("got %v", err)
	}
}

// A docker configuration may leave a registry to a helper, if that is allowed.
func TestDockerConfigWithHelper(t *testing.T) {
	runs := helperProgram(t, "store", `echo '{"Username":"bot","Secret":"s3cr3t"}'`)
	for file, server := range map[string]string{
		`{"credHelpers":{"ghcr.io":"store"}}`:                                     "ghcr.io",
		`{"credsStore":"store","auths":{"ghcr.io":{}}}`:                           "ghcr.io",
		`{"credsStore":"other","credHelpers":{"https://ghcr.io":"store"}}`:        "https://ghcr.io",
		`{"auths":{"quay.io":{"auth":"eDp5"}},"credHelpers":{"ghcr.io":"store"}}`: "ghcr.io",
	} {
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := DockerConfig(File{Path: path}, nil, "ghcr.io").Login(t.Context()); err == nil || !strings.Contains(err.Error(), "helpers:") {
			t.Errorf("%s, not allowed: %v", file, err)
		}
		before := len(runs())
		s := DockerConfig(File{Path: path}, []string{"store"}, "ghcr.io")
		for range 2 {
			if login, err := s.Login(t.Context()); err != nil || login.Password.Reveal() != "s3cr3t" {
				t.Errorf("%s: %v, %v", file, login, err)
			}
		}
		got := runs()
		if len(got) != before+1 || !strings.HasPrefix(got[before], "get "+server) {
			t.Errorf("%s: runs %q", file, got[before:])
		}
	}
}

// A helper's answer that is refused may have expired: the helper is asked again, by
// the next look-up, and the account is not left alone. One that was given a moment
// ago is no good, and cools down like any other.
func TestHelperIsAskedAgain(t *testing.T) {
	f, c := newFakeRegistry(t, false), newClock()
	good := "one"
	f.token = func(w http.ResponseWriter, _ *http.Request, user, password string) {
		if password != good {
			refuse(w, 401, "UNAUTHORIZED", "expired")
			return
		}
		f.grant(w, user, 60)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runs := helperProgram(t, "gcr", fmt.Sprintf(`echo "{\"Username\":\"oauth2accesstoken\",\"Secret\":\"$(cat %s)\"}"`, secret))
	entry := entryFor("acme", "gcp", "gcr.io")
	entry.Source = HelperSource(Helper{Name: "gcr", Server: "gcr.io", Now: c.now})
	table := mustCredentials(t, CredentialsOptions{Key: NewKey(), Entries: []Entry{entry}, Now: c.now})
	a := f.authority(AuthorityOptions{Now: c.now})
	pull := func() (*Credential, error) {
		t.Helper()
		cred, err := table.Lookup(t.Context(), "acme", "", "gcr.io", "acme/app")
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.header(a, cred, "acme/app")
		return cred, err
	}

	write("one")
	first, err := pull()
	if err != nil {
		t.Fatal(err)
	}
	c.advance(10 * time.Minute)
	write("two")
	good = "two"
	for range 2 { // the second was on its way with the first
		_, err = f.header(a, first, "acme/app")
		wantClass(t, err, oci.Unauthorized)
	}
	second, err := pull()
	if err != nil || second.Fingerprint != first.Fingerprint || len(runs()) != 2 {
		t.Errorf("the next one: %v, %v after %d runs", second, err, len(runs()))
	}

	c.advance(5 * time.Minute)
	good = "three"
	before := f.get(&f.tokenRequests)
	for range 5 {
		_, err = pull()
		wantClass(t, err, oci.Unauthorized)
		c.advance(5 * time.Second)
	}
	if n := f.get(&f.tokenRequests) - before; n != 2 || len(runs()) != 3 {
		t.Errorf("a helper that knows no better costs %d requests and %d runs", n, len(runs()))
	}
}
