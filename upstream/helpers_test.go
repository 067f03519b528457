package upstream

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/internal/secret"
	"berth/oci"

	"berth/auth/credential"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// withoutAuth stands before a registry that wants nothing, so that it need not be asked.
func withoutAuth(http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp := replyWith(http.StatusOK, "")
		resp.Request = r
		return resp, nil
	})
}

// newRegistry is New with loopback allowed, closed at the end of the test.
func newRegistry(t testing.TB, o Options) *Registry {
	t.Helper()
	o.Name = cmp.Or(o.Name, "registry.test")
	if o.AllowPrivate == nil {
		o.AllowPrivate = loopback
	}
	r, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

// over is a Registry for a fake one.
func over(t testing.TB, up *ocitest.Registry) *Registry {
	t.Helper()
	r := newRegistry(t, Options{
		Origin: up.Origin(), CAs: up.CertPool(),
		TokenEndpoints: []string{up.TokenURL()},
	})
	r.pause = time.Millisecond
	return r
}

// as is an Identity with one credential.
func as(organisation, user, password string) Identity {
	cred := &credential.Credential{
		Name: "ci", Organisation: organisation, Registry: "registry.test", Username: secret.New(user),
		Password: secret.New(password), Fingerprint: "fp-" + oci.DigestOf([]byte(organisation+"\x00"+user+"\x00"+password)).Encoded(), Version: "fp-" + oci.DigestOf([]byte(organisation+"\x00"+user+"\x00"+password)).Encoded(),
	}
	return Identity{Organisation: organisation, Credential: func(context.Context, string) (*credential.Credential, error) { return cred, nil }}
}

// roundTripper is a transport without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// inMemoryRegistry is a Registry whose requests go to rt, without sockets, so
// that it can live in a synctest bubble.
func inMemoryRegistry(t testing.TB, rt roundTripper) *Registry {
	t.Helper()
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth})
	r.meta, r.blob = rt, rt
	return r
}

// reply answers with a status, pairs of headers, and a body.
func replyWith(status int, body string, pairs ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}
}

func readAll(t testing.TB, c *oci.Content) []byte {
	t.Helper()
	defer c.Close()
	if c.Data != nil {
		return c.Data
	}
	b, err := io.ReadAll(c.Body)
	if err != nil {
		t.Fatalf("reading the body: %v", err)
	}
	return b
}

// wantClass fails the test unless err is an *oci.Error of the class.
func wantClass(t testing.TB, err error, want oci.Class) {
	t.Helper()
	_ = classed(t, err, want)
}

// classed is wantClass, and returns the error.
func classed(t testing.TB, err error, want oci.Class) *oci.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	e := oci.AsError(err)
	if e.Class != want {
		t.Fatalf("class %s, want %s: %v", e.Class, want, err)
	}
	if e.Message == "" || strings.ContainsAny(e.Message, "\n?") {
		t.Errorf("message %q: want one line without a query", e.Message)
	}
	return e
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// testClock is a clock that is moved by hand.
type testClock struct{ ns atomic.Int64 }

func clock() *testClock {
	c := &testClock{}
	c.ns.Store(time.Now().UnixNano())
	return c
}

func (c *testClock) Now() time.Time      { return time.Unix(0, c.ns.Load()) }
func (c *testClock) advance(seconds int) { c.ns.Add(int64(time.Duration(seconds) * time.Second)) }

// web is a server that is no registry, and counts.
type web struct {
	*httptest.Server
	asked atomic.Int64
}

func (w *web) count() int { return int(w.asked.Load()) }

func newWeb(t testing.TB, h http.Handler) *web {
	t.Helper()
	w := &web{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}
