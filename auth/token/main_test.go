package token

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"berth/oci"

	"berth/auth/credential"
)

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

// classified is a transport whose errors are *oci.Errors, as those of upstream are.
type classified struct{ http.RoundTripper }

func (c classified) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		err = &oci.Error{Class: oci.Unreachable, Message: "the connection failed", Err: err}
	}
	return resp, err
}

// authority speaks for f until the test ends.
func (f *fakeRegistry) authority(o Options) *Client {
	f.t.Helper()
	o.Origin = f.origin()
	if o.Registry == "" {
		o.Registry = "registry.test"
	}
	if o.Transport == nil {
		o.Transport = f.Client().Transport
	}
	o.Transport = classified{o.Transport}
	a, err := New(o)
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
func (f *fakeRegistry) header(a *Client, cred *credential.Credential, repo string) (string, error) {
	f.t.Helper()
	req := f.pull(repo)
	err := a.Authorize(f.t.Context(), req, cred, repo)
	return req.Header.Get("Authorization"), err
}
