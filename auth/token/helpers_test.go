package token

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/auth/credential"
	"berth/internal/secret"
	"berth/oci"

	"berth/upstream/dialect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that only a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// logbook keeps what was logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func typeNamed(t *testing.T, name string) dialect.Type {
	t.Helper()
	k, ok := dialect.TypeNamed(name)
	if !ok {
		t.Fatalf("no type %s", name)
	}
	return k
}

// testAccount is a credential as a Table makes it.
func testAccount(organisation, name, user, password string) *credential.Credential {
	s := secret.New(password)
	return &credential.Credential{
		Name: name, Organisation: organisation, Registry: "registry.test", Username: secret.New(user), Password: s,
		Fingerprint: credential.Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
		Version:     credential.Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
	}
}

// wantClass fails unless err is an *oci.Error of class.
func wantClass(t *testing.T, err error, class oci.Class) {
	t.Helper()
	_ = asClass(t, err, class)
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// asClass is wantClass, and gives the error (or an empty one).
func asClass(t *testing.T, err error, class oci.Class) *oci.Error {
	t.Helper()
	e, ok := err.(*oci.Error) //nolint:errorlint // exactly that type is promised
	if !ok {
		t.Errorf("error %v (%T), want an *oci.Error of class %s", err, err, class)
		return &oci.Error{}
	}
	if e.Class != class {
		t.Errorf("class %s, want %s: %v", e.Class, class, err)
	}
	if e.Message == "" || strings.ContainsAny(e.Message, "\n\r") {
		t.Errorf("message %q is empty or has several lines", e.Message)
	}
	return e
}

const canary = "c4n4ry-s3cret-0123456789"

func pair(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func specBody(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q,"detail":{"x":[1]}}]}`, code, message)
}

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

func entryFor(organisation, name, registry string, patterns ...string) credential.Entry {
	return credential.Entry{
		Name: name, Organisation: organisation, Registry: registry, Repositories: patterns,
		Origin: oci.Origin{Scheme: "https", Host: registry},
		Source: credential.Static("user-"+name, secret.New("secret of "+organisation+" "+name)),
	}
}

func mustCredentials(t *testing.T, o credential.TableOptions) *credential.Table {
	t.Helper()
	c, err := credential.NewTable(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
