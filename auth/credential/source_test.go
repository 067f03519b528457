package credential

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/fileid"

	"berth/internal/secret"
)

func writeFile(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPasswordFileContent(t *testing.T) {
	for content, want := range map[string]string{
		"pw": "pw", "pw\n": "pw", "pw\r\n": "pw", " pw ": " pw ", "pw ü": "pw ü",
		"": "", "\n": "", "\r\n": "", "pw\n\n": "", "a\nb": "", "a\x00": "",
		strings.Repeat("x", maxSecretFile-1): strings.Repeat("x", maxSecretFile-1),
		strings.Repeat("x", maxSecretFile):   "",
	} {
		path := writeFile(t, filepath.Join(t.TempDir(), "pw"), content, 0o600)
		login, err := PasswordFile(File{Path: path}, "u").Login(t.Context())
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%.20q: %v", content, err)
			}
			continue
		}
		if err != nil || login.Password.Reveal() != want || login.Username.Reveal() != "u" {
			t.Errorf("%.20q: %.20q, %v", content, login.Password.Reveal(), err)
		}
	}
}

// Modes and owners. The owner cells need root, which is who runs this in a
// container.
func TestFileRights(t *testing.T) {
	for _, tc := range []struct {
		mode     os.FileMode
		uid, gid int // -1: ours
		says     string
	}{
		{0o600, -1, -1, ""}, {0o400, -1, -1, ""}, {0o440, -1, -1, ""}, {0o640, -1, -1, ""}, {0o660, -1, -1, ""},
		{0o644, -1, -1, "others"}, {0o604, -1, -1, "others"}, {0o602, -1, -1, "others"}, {0o601, -1, -1, "others"}, {0o666, -1, -1, "others"},
		{0o640, -1, 12345, "group"}, {0o620, -1, 12345, "group"}, {0o600, -1, 12345, ""},
		{0o600, 12345, -1, "belongs to user 12345"}, {0o644, 12345, -1, "belongs"},
	} {
		t.Run(fmt.Sprintf("%04o_%d_%d", tc.mode, tc.uid, tc.gid), func(t *testing.T) {
			path := writeFile(t, filepath.Join(t.TempDir(), "pw"), canary, tc.mode)
			if (tc.uid >= 0 || tc.gid >= 0) && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			if err := os.Chown(path, tc.uid, tc.gid); err != nil {
				t.Fatal(err)
			}
			_, err := PasswordFile(File{Path: path}, "u").Login(t.Context())
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path)):
				t.Errorf("error %v, want one that says %q", err, tc.says)
			case err != nil && strings.Contains(err.Error(), canary):
				t.Errorf("the content is in the error: %v", err)
			}
			if checked := (File{Path: path}).Check(); (checked == nil) != (err == nil) {
				t.Errorf("Check says %v, reading %v", checked, err)
			}
			if _, err := PasswordFile(File{Path: path, Trusted: true}, "u").Login(t.Context()); err != nil {
				t.Errorf("refused in a trusted folder: %v", err)
			}
		})
	}
}

func TestFileKinds(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "org")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	outside := writeFile(t, filepath.Join(dir, "other"), canary, 0o600)
	writeFile(t, filepath.Join(inside, "pw"), "own", 0o600)
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("pw", "near")
	link("../other", "far")
	link(outside, "absolute")
	link("loop", "loop")
	if err := syscall.Mkfifo(filepath.Join(inside, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		file File
		want string
	}{
		"file":                  {File{Path: filepath.Join(inside, "pw")}, "own"},
		"link":                  {File{Path: filepath.Join(inside, "far")}, canary},
		"in folder":             {File{Path: "pw", Directory: inside}, "own"},
		"link in folder":        {File{Path: "near", Directory: inside}, "own"},
		"link out of folder":    {File{Path: "far", Directory: inside}, ""},
		"absolute link":         {File{Path: "absolute", Directory: inside}, ""},
		"path out of folder":    {File{Path: "../other", Directory: inside}, ""},
		"absolute path":         {File{Path: outside, Directory: inside}, ""},
		"link to itself":        {File{Path: filepath.Join(inside, "loop")}, ""},
		"a named pipe":          {File{Path: filepath.Join(inside, "pipe")}, ""},
		"a trusted named pipe":  {File{Path: filepath.Join(inside, "pipe"), Trusted: true}, ""},
		"a folder":              {File{Path: inside}, ""},
		"a device":              {File{Path: "/dev/zero"}, ""},
		"no file":               {File{Path: filepath.Join(inside, "none")}, ""},
		"no folder":             {File{Path: "pw", Directory: filepath.Join(inside, "none")}, ""},
		"trusted and in folder": {File{Path: "far", Directory: inside, Trusted: true}, ""},
	} {
		login, err := PasswordFile(tc.file, "u").Login(t.Context())
		if (err == nil) != (tc.want != "") || login.Password.Reveal() != tc.want {
			t.Errorf("%s: got %q, %v", name, login.Password.Reveal(), err)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the content is in the error", name)
		}
	}
}

// The swap of a folder link, as Kubernetes and configuration tools do it.
func TestSymlinkSwap(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, v), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, v, "pw"), "secret "+v, 0o600)
	}
	old := time.Now().Add(-time.Hour)
	for _, v := range []string{"v1", "v2"} {
		if err := os.Chtimes(filepath.Join(dir, v, "pw"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	current := filepath.Join(dir, "current")
	if err := os.Symlink("v1", current); err != nil {
		t.Fatal(err)
	}
	s := PasswordFile(File{Path: filepath.Join(current, "pw")}, "u")
	if login, err := s.Login(t.Context()); err != nil || login.Password.Reveal() != "secret v1" {
		t.Fatal(login.Password.Reveal(), err)
	}
	if err := os.Symlink("v2", current+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(current+".new", current); err != nil {
		t.Fatal(err)
	}
	if login, err := s.Login(t.Context()); err != nil || login.Password.Reveal() != "secret v2" {
		t.Errorf("after the swap: %q, %v", login.Password.Reveal(), err)
	}
}

// A settled file is not read again until it changes.
func TestSettledFileIsNotReadAgain(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "pw"), "abc", 0o600)
	for _, file := range []File{{Path: path}, {Path: "pw", Directory: filepath.Dir(path)}} {
		settledFile(t, file)
	}
}

func settledFile(t *testing.T, file File) {
	s, ok := PasswordFile(file, "u").(*fileSource)
	if !ok {
		t.Fatal("not a file source")
	}
	if _, err := s.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.last.settled {
		t.Fatal("a file of this very moment counts as settled")
	}
	reads := 0
	parse := s.parse
	s.parse = func(b []byte) (Login, error) { reads++; return parse(b) }
	s.last.settled = true // as it will be in two seconds
	for range 5 {
		if login, err := s.Login(t.Context()); err != nil || login.Password.Reveal() != "abc" {
			t.Fatal(err)
		}
	}
	if reads != 0 {
		t.Errorf("an unchanged file was read %d times", reads)
	}
	s.last.seen = fileid.ID{}
	if _, err := s.Login(t.Context()); err != nil || reads != 1 {
		t.Errorf("a changed file was read %d times, %v", reads, err)
	}
}

func TestStatic(t *testing.T) {
	if _, err := Static("u", secret.Text{}).Login(t.Context()); err == nil {
		t.Error("an empty password was taken")
	}
	if login, err := Static("u", secret.New("p")).Login(t.Context()); err != nil || login.Password.Reveal() != "p" {
		t.Error(err)
	}
}

func TestDockerConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		content  string
		hosts    []string
		user, pw string
		says     string
	}{
		"auth":                {`{"auths":{"ghcr.io":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"ghcr.io"}, "bot", "pw", ""},
		"user and password":   {`{"auths":{"ghcr.io":{"username":"bot","password":"pw"}}}`, []string{"ghcr.io"}, "bot", "pw", ""},
		"password with colon": {`{"auths":{"ghcr.io":{"auth":"` + pair("bot:p:w") + `"}}}`, []string{"ghcr.io"}, "bot", "p:w", ""},
		"unpadded":            {`{"auths":{"ghcr.io":{"auth":"` + strings.TrimRight(pair("bot:pw1"), "=") + `"}}}`, []string{"ghcr.io"}, "bot", "pw1", ""},
		"URL key":             {`{"auths":{"https://ghcr.io/v2/":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"ghcr.io"}, "bot", "pw", ""},
		"Docker Hub":          {`{"auths":{"https://index.docker.io/v1/":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"docker.io"}, "bot", "pw", ""},
		"Docker Hub by name":  {`{"auths":{"docker.io":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"docker.io"}, "bot", "pw", ""},
		"alias":               {`{"auths":{"example":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"registry.example.com", "example"}, "bot", "pw", ""},
		"port":                {`{"auths":{"reg.acme.com:5443":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"reg.acme.com:5443"}, "bot", "pw", ""},
		"case":                {`{"auths":{"GHCR.io":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"ghcr.io"}, "bot", "pw", ""},
		"first name wins":     {`{"auths":{"b":{"auth":"` + pair("b:b") + `"},"a":{"auth":"` + pair("a:a") + `"}}}`, []string{"a", "b"}, "a", "a", ""},
		"two spellings":       {`{"auths":{"https://ghcr.io":{"auth":"` + pair("two:2") + `"},"ghcr.io":{"auth":"` + pair("one:1") + `"}}}`, []string{"ghcr.io"}, "one", "1", ""},
		"DigitalOcean":        {`{"auths":{"registry.digitalocean.com":{"auth":"` + pair("dop:dop") + `"}}}`, []string{"registry.digitalocean.com"}, "dop", "dop", ""},
		"broken neighbour":    {`{"auths":{"quay.io":{"auth":"***"},"ghcr.io":{"auth":"` + pair("bot:pw") + `"}}}`, []string{"ghcr.io"}, "bot", "pw", ""},
		"padding":             {`{"auths":{"ghcr.io":{"auth":"` + pair("bot:pw\x00\x00") + `"}}}`, []string{"ghcr.io"}, "bot", "pw", ""},

		"identity token":  {`{"auths":{"x.azurecr.io":{"auth":"` + pair("u:") + `","identitytoken":"` + canary + `"}}}`, []string{"x.azurecr.io"}, "", "", "identity token"},
		"registry token":  {`{"auths":{"ghcr.io":{"registrytoken":"` + canary + `"}}}`, []string{"ghcr.io"}, "", "", "registry token"},
		"helper":          {`{"auths":{"ghcr.io":{}},"credHelpers":{"ghcr.io":"` + canary + `"}}`, []string{"ghcr.io"}, "", "", "credential helper"},
		"store":           {`{"auths":{"ghcr.io":{}},"credsStore":"` + canary + `"}`, []string{"ghcr.io"}, "", "", "credential store"},
		"other registry":  {`{"auths":{"quay.io":{"auth":"` + pair("bot:"+canary) + `"}}}`, []string{"ghcr.io"}, "", "", "no login for ghcr.io"},
		"sub-domain":      {`{"auths":{"evil.ghcr.io":{"auth":"` + pair("bot:"+canary) + `"}}}`, []string{"ghcr.io"}, "", "", "no login"},
		"other port":      {`{"auths":{"ghcr.io:444":{"auth":"` + pair("bot:"+canary) + `"}}}`, []string{"ghcr.io"}, "", "", "no login"},
		"no base64":       {`{"auths":{"ghcr.io":{"auth":"` + canary + `"}}}`, []string{"ghcr.io"}, "", "", "not base64"},
		"no colon":        {`{"auths":{"ghcr.io":{"auth":"` + pair(canary) + `"}}}`, []string{"ghcr.io"}, "", "", "not base64"},
		"empty password":  {`{"auths":{"ghcr.io":{"auth":"` + pair("bot:") + `"}}}`, []string{"ghcr.io"}, "", "", "empty"},
		"user only":       {`{"auths":{"ghcr.io":{"username":"bot"}}}`, []string{"ghcr.io"}, "", "", "empty"},
		"no JSON":         {canary, []string{"ghcr.io"}, "", "", "JSON"},
		"malformed":       {`{"auths":{"ghcr.io":{"auth":"` + canary, []string{"ghcr.io"}, "", "", "JSON"},
		"wrong types":     {`{"auths":["` + canary + `"]}`, []string{"ghcr.io"}, "", "", "JSON"},
		"auth is a list":  {`{"auths":{"ghcr.io":["` + canary + `"]}}`, []string{"ghcr.io"}, "", "", "not base64"},
		"empty object":    {`{}`, []string{"ghcr.io"}, "", "", "no login"},
		"empty file":      {``, []string{"ghcr.io"}, "", "", "JSON"},
		"nothing to look": {`{"auths":{"ghcr.io":{"auth":"` + pair("bot:pw") + `"}}}`, nil, "", "", "no login for this registry"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, filepath.Join(t.TempDir(), "config.json"), tc.content, 0o600)
			login, err := DockerConfig(File{Path: path}, nil, tc.hosts...).Login(t.Context())
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
					t.Errorf("error %v, want one that says %q", err, tc.says)
				}
				if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), pair("bot:" + canary)[:12])) {
					t.Errorf("the content is in the error: %v", err)
				}
				return
			}
			if err != nil || login.Username.Reveal() != tc.user || login.Password.Reveal() != tc.pw {
				t.Errorf("got %q, %q, %v", login.Username.Reveal(), login.Password.Reveal(), err)
			}
		})
	}
}

func FuzzDockerConfig(f *testing.F) {
	for _, s := range []string{
		`{"auths":{"ghcr.io":{"auth":"Ym90OnB3"}}}`, `{"auths":{"ghcr.io":{"username":"a","password":"b"}}}`, `{"auths":{"https://ghcr.io/":null}}`,
		`{"credHelpers":{"ghcr.io":"x"}}`, `{"auths":{"ghcr.io":{"identitytoken":"x"}}}`, `[]`, ``, `{"auths":{"ghcr.io":{"auth":"` + pair("secretsecret") + `"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		login, err := parseDockerConfig(content, []string{"ghcr.io"})
		if err == nil && login.Password.Empty() {
			t.Fatal("a login without a password")
		}
		if err != nil {
			for _, known := range []string{"docker configuration in JSON", "not base64", "identity token", "registry token", "is empty", "credential helper", "credential store", "no login for"} {
				if strings.Contains(err.Error(), known) {
					return
				}
			}
			t.Fatalf("an error of somebody else's making: %v", err)
		}
	})
}
