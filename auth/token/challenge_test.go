package token

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream/classify"
)

func TestPingAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		class  oci.Class
		says   string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.test/login", http.StatusFound)
		}, oci.UpstreamError, "sends everyone elsewhere (302"},
		"418": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, oci.UpstreamError, "does not answer like a registry (418"},
		"429": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(http.StatusTooManyRequests)
		}, oci.RateLimited, "9 s"},
		"503":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, oci.UpstreamError, "in trouble (503)"},
		"endless page": {func(w http.ResponseWriter, r *http.Request) { endless(w, r, 418) }, oci.UpstreamError, "(418"},
		"cut off":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, oci.Unreachable, "connection failed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRegistry(t, false)
			asked := 0
			f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				f.count(&asked)
				tc.answer(w, r)
			})
			a := f.authority(Options{})
			for i := range 2 {
				h, err := f.header(a, testAccount("acme", "ci", "bot", "pw"), "x")
				if e := ocitest.AsClass(t, err, tc.class); h != "" || !strings.Contains(e.Message, tc.says) {
					t.Errorf("%q, %s", h, e)
				}
				if f.get(&asked) < i+1 {
					t.Error("a failure was remembered")
				}
			}
		})
	}
}

// endless writes until the reader has had enough.
func endless(w http.ResponseWriter, r *http.Request, status int) {
	w.WriteHeader(status)
	page := []byte(strings.Repeat("x", 32<<10))
	for r.Context().Err() == nil {
		if _, err := w.Write(page); err != nil {
			return
		}
	}
}

// A https origin is never asked over http, also on the loopback interface.
func TestNoDowngrade(t *testing.T) {
	f := newFakeRegistry(t, true)
	f.challenge = `Bearer realm="http://` + strings.TrimPrefix(f.URL, "https://") + `/token"`
	var plain int
	inner := f.Client().Transport
	a := f.authority(Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme != "https" {
			f.count(&plain)
		}
		return inner.RoundTrip(r)
	})})
	_, err := f.header(a, testAccount("acme", "ci", "bot", "pw"), "x")
	ocitest.WantClass(t, err, oci.UpstreamError)
	f.Close()
	b := f.authority(Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme != "https" {
			f.count(&plain)
		}
		return inner.RoundTrip(r)
	})})
	_, err = f.header(b, nil, "x")
	ocitest.WantClass(t, err, oci.Unreachable)
	if f.get(&plain) > 0 {
		t.Errorf("%d requests over http", f.get(&plain))
	}
}

// The challenge that counts is that of a request without credentials, and a
// registry may change it.
func TestChallengeChanges(t *testing.T) {
	f, c, logs := newFakeRegistry(t, false), ocitest.NewClock(), &ocitest.Log{}
	f.challenge = `Basic realm="old"`
	a := f.authority(Options{Now: c.Now, Logger: logs.Logger()})
	cred := testAccount("acme", "ci", "bot", "pw")
	req := f.pull("x")
	if err := a.Authorize(t.Context(), req, cred, "x"); err != nil {
		t.Fatal(err)
	}
	f.be(func() { f.challenge = bearerChallenge })
	if a.Rejected(req, cred, "x") {
		t.Error("Basic credentials that were refused are worth another try")
	}
	_, err := f.header(a, cred, "x")
	ocitest.WantClass(t, err, oci.Unauthorized)
	c.Advance(firstCoolDown) // the cool-down ends, and the challenge is asked for again
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("after the change: %q, %v", h, err)
	}
	// The registry goes away for a while: the challenge stays.
	a.probe.suspect()
	f.be(func() { f.challenge = "" })
	c.Advance(reprobe)
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		f.ServeHTTP(w, r)
	})
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("while /v2/ is in trouble: %q, %v", h, err)
	}
}

// What one repository wants is what that one wants: others are asked for as before,
// and no credential goes where a realm is not the registry's.
func TestChallenged(t *testing.T) {
	f, logs := newFakeRegistry(t, false), &ocitest.Log{}
	f.challenge = "" // 200 at /v2/, credentials wanted further down
	a := f.authority(Options{Logger: logs.Logger()})
	cred := testAccount("acme", "ci", "bot", "pw")
	if h, err := f.header(a, cred, "x"); err != nil || h != "" {
		t.Fatal(h, err)
	}
	challenge := http.Header{"Www-Authenticate": {strings.ReplaceAll(bearerChallenge, "%s", f.URL)}}
	if !a.Challenged(challenge, "acme", "x") {
		t.Error("a challenge is no news")
	}
	if a.Challenged(challenge, "acme", "x") {
		t.Error("the same challenge is news again")
	}
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("after the challenge: %q, %v", h, err)
	}
	foreign := http.Header{"Www-Authenticate": {`Bearer realm="https://evil.test/t"`}}
	for _, useless := range []http.Header{nil, {}, {"Www-Authenticate": {""}}, {"Www-Authenticate": {"Negotiate"}}, foreign} {
		for _, repo := range []string{"x", "y"} {
			if a.Challenged(useless, "acme", repo) {
				t.Errorf("%v is news of %s", useless, repo)
			}
		}
	}
	for repo, want := range map[string]string{"x": "Bearer bot-1", "y": ""} {
		if h, err := f.header(a, cred, repo); err != nil || h != want {
			t.Errorf("%s: %q, %v, want %q", repo, h, err, want)
		}
	}
	if got, err := a.Challenge(t.Context()); err != nil || got.Scheme != "" {
		t.Errorf("what /v2/ wants: %+v, %v", got, err)
	}
	if n := strings.Count(logs.String(), "evil.test"); n != 1 {
		t.Errorf("the foreign realm is told %d times", n)
	}
	if n := f.get(&f.pings); n != 1 {
		t.Errorf("%d pings, want 1", n)
	}
}

// What one organisation asks for pushes out neither what another's repository wants nor
// that its credential was refused.
func TestChallenged_OthersStay(t *testing.T) {
	f := newFakeRegistry(t, false)
	f.challenge = ""
	a := f.authority(Options{})
	challenge := http.Header{"Www-Authenticate": {strings.ReplaceAll(bearerChallenge, "%s", f.URL)}}
	cred := testAccount("acme", "ci", "bot", "pw")
	a.Challenged(challenge, "acme", "acme/app")
	a.standings.refuse(cred, &classify.RefusedCause{Status: http.StatusUnauthorized})
	for i := range 2 * maxStandings {
		a.Challenged(challenge, "globex", fmt.Sprint("globex/", i))
		a.standings.refuse(testAccount("globex", "ci", "bot", fmt.Sprint(i)), &classify.RefusedCause{Status: http.StatusUnauthorized})
	}
	if c := a.lastFor("acme/app"); c == nil || c.Scheme != schemeBearer {
		t.Errorf("acme's repository wants %+v", c)
	}
	if a.Refusal(cred) == nil {
		t.Error("that acme's credential was refused is forgotten")
	}
}

// A token that is refused is replaced once, and the second try goes with the next one
// and not without any. What was refused for good is asked for anew.
func TestChallenged_ThatIsRefused(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	f.challenge = ""
	a := f.authority(Options{Now: c.Now})
	cred := testAccount("acme", "ci", "bot", "pw")
	challenge := http.Header{"Www-Authenticate": {strings.ReplaceAll(bearerChallenge, "%s", f.URL)}}
	a.Challenged(challenge, "acme", "x")
	for i, want := range []struct {
		header string
		again  bool
	}{{"Bearer bot-1", true}, {"Bearer bot-2", false}, {"", false}} {
		req := f.pull("x")
		if err := a.Authorize(t.Context(), req, cred, "x"); err != nil || req.Header.Get("Authorization") != want.header {
			t.Fatalf("try %d: %q, %v", i, req.Header.Get("Authorization"), err)
		}
		if i == 0 {
			c.Advance(justNow)
		}
		if again := a.Rejected(req, cred, "x"); again != want.again {
			t.Errorf("try %d: again %v", i, again)
		}
	}
	if !a.Challenged(challenge, "acme", "x") {
		t.Error("a challenge is no news")
	}
}

// One challenge is read in one way, by whoever looks whether its realm may be asked and
// by whoever asks it.
func TestChallenge_IsReadOnce(t *testing.T) {
	mayAsk := func(realm string) bool { return realm == "https://registry.test/token" }
	for header, want := range map[string]Challenge{
		`Bearer realm="https://registry.test/token",service="registry"`:                   {Scheme: "bearer", Realm: "https://registry.test/token", Service: "registry"},
		`bearer realm="https://registry.test/token",realm="https://evil.test/t"`:          {Scheme: "bearer", Realm: "https://registry.test/token"},
		`Bearer realm="https://evil.test/t",realm="https://registry.test/token"`:          {Scheme: "bearer", Realm: "https://evil.test/t"},
		`Bearer realm="https://evil.test/t", Basic realm="x"`:                             {Scheme: "basic", Realm: "x"},
		`Negotiate, Basic realm="x", Bearer realm="https://registry.test/token"`:          {Scheme: "bearer", Realm: "https://registry.test/token"},
		`Digest realm="x", nonce="y"`:                                                     {Scheme: "digest", Realm: "x"},
		"Bearer\tservice=\"a, b\" , realm = \"https://registry.test/token\"":              {Scheme: "bearer", Realm: "https://registry.test/token", Service: "a, b"},
		`Bearer service="",realm="https://registry.test/token",scope="repository:x:pull"`: {Scheme: "bearer", Realm: "https://registry.test/token"},
		`Bearer realm="https://registry.test/\\token",service="a\"b"`:                     {Scheme: "bearer", Realm: `https://registry.test/\token`, Service: `a"b`},
		"":  {Scheme: schemeUnknown},
		",": {Scheme: schemeUnknown},
	} {
		if got := read(http.Header{"Www-Authenticate": {header}}, mayAsk); got != want {
			t.Errorf("%s is %+v, want %+v", header, got, want)
		}
	}
}

// Whatever an origin's host looks like, one request goes to it, in its scheme.
func TestPingHosts(t *testing.T) {
	for _, scheme := range []string{"https", "http"} {
		for _, host := range []string{"ghcr.io", "docker.io", "localhost:5000", "127.0.0.1", "10.0.0.5:5000", "[::1]:5000", "[2001:db8::1]", "reg.lan:8080", "x.localhost"} {
			var asked []string
			a, err := New(Options{
				Origin: oci.Origin{Scheme: scheme, Host: host}, Registry: "registry.test",
				Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
					asked = append(asked, r.URL.String())
					return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
				}),
			})
			if err != nil {
				t.Fatal(err)
			}
			if c, err := a.Challenge(t.Context()); err != nil || c.Scheme != "" {
				t.Errorf("%s://%s: %+v, %v", scheme, host, c, err)
			}
			a.Close()
			if want := scheme + "://" + host + "/v2/"; len(asked) != 1 || asked[0] != want {
				t.Errorf("asked %v, want %s", asked, want)
			}
		}
	}
}
