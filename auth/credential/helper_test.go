package credential

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
)

func TestHelper(t *testing.T) {
	t.Setenv("SECRET_OF_THE_SERVICE", "must not be seen")
	runs := ocitest.CredentialHelper(t, "ecr-login", `echo '{"ServerURL":"x","Username":"AWS","Secret":"s3cr3t"}'`)
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
			ocitest.CredentialHelper(t, "odd", c.script)
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
	runs := ocitest.CredentialHelper(t, "store", `echo '{"Username":"bot","Secret":"s3cr3t"}'`)
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
