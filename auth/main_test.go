package auth

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/oci"

	"berth/internal/secret"
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

// fakeRegistry is a registry and its token endpoint in one server. It counts,
// grants tokens that name their user, and complains about what must not happen.
type fakeRegistry struct {
	*httptest.Server

	t  *testing.T
	mu sync.Mutex
	// how it behaves
	challenge string // of /v2/; empty: 200. "%s" is the server's URL
	token     func(w http.ResponseWriter, r *http.Request, user, password string)
	// what it saw
	pings, grants, tokenRequests int
	scopes                       []string
}

const bearerChallenge = `Bearer realm="%s/token",service="registry.test"`

func newFakeRegistry(t *testing.T, tls bool) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{t: t, challenge: bearerChallenge}
	f.Server = httptest.NewUnstartedServer(f)
	if tls {
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	challenge, token := f.challenge, f.token
	f.mu.Unlock()
	switch r.URL.Path {
	case "/v2/":
		f.count(&f.pings)
		if r.Header.Get("Authorization") != "" {
			f.t.Error("the ping carried an Authorization header")
		}
		if challenge == "" {
			return
		}
		w.Header().Set("WWW-Authenticate", strings.ReplaceAll(challenge, "%s", f.URL))
		w.WriteHeader(http.StatusUnauthorized)
	case "/token":
		f.count(&f.tokenRequests)
		if r.Method != http.MethodGet {
			f.t.Errorf("the token endpoint was asked with %s", r.Method)
		}
		f.mu.Lock()
		f.scopes = append(f.scopes, r.URL.Query().Get("scope"))
		f.mu.Unlock()
		user, password, _ := r.BasicAuth()
		if token != nil {
			token(w, r, user, password)
			return
		}
		f.grant(w, user, 300)
	default:
		f.t.Errorf("unexpected request %s %s", r.Method, r.URL.Path)
		http.NotFound(w, r)
	}
}

// grant gives a token that says whose it is and is never given twice.
func (f *fakeRegistry) grant(w http.ResponseWriter, user string, seconds int) {
	n := f.count(&f.grants)
	fmt.Fprintf(w, `{"token":"%s-%d","expires_in":%d}`, user, n, seconds)
}

func (f *fakeRegistry) count(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	*n++
	return *n
}

func (f *fakeRegistry) get(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}

// be changes how it behaves.
func (f *fakeRegistry) be(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// refuse answers with status and a body in the specification's form.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

func (f *fakeRegistry) origin() oci.Origin {
	scheme, host, _ := strings.Cut(f.URL, "://")
	return oci.Origin{Scheme: scheme, Host: host}
}

// authority speaks for f until the test ends.
func (f *fakeRegistry) authority(o AuthorityOptions) *Authority {
	f.t.Helper()
	o.Origin = f.origin()
	if o.Registry == "" {
		o.Registry = "registry.test"
	}
	if o.Transport == nil {
		o.Transport = f.Client().Transport
	}
	a, err := NewAuthority(o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(a.Close)
	return a
}

// pull is a request that is to be authorised.
func (f *fakeRegistry) pull(repo string) *http.Request {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.URL+"/v2/"+repo+"/manifests/latest", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return req
}

// header is what a authorises a pull of repo by cred with.
func (f *fakeRegistry) header(a *Authority, cred *Credential, repo string) (string, error) {
	f.t.Helper()
	req := f.pull(repo)
	err := a.Authorize(f.t.Context(), req, cred, repo)
	return req.Header.Get("Authorization"), err
}

func typeNamed(t *testing.T, name string) Type {
	t.Helper()
	k, ok := TypeNamed(name)
	if !ok {
		t.Fatalf("no type %s", name)
	}
	return k
}

// credential makes one as Credentials would.
func credential(organisation, name, user, password string) *Credential {
	s := secret.New(password)
	return &Credential{
		Name: name, Organisation: organisation, Registry: "registry.test", Username: secret.New(user), Password: s,
		Fingerprint: Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
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
