package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/oci"
)

func TestAuthorizeByScheme(t *testing.T) {
	acme := credential("acme", "ci", "bot", "pw")
	alone := credential("acme", "do", "", "dop_v1")
	for name, tc := range map[string]struct {
		challenge string
		tls       bool
		cred      *Credential
		want      string // "Bearer bot" stands for a token of bot's
		class     oci.Class
	}{
		"open":                         {"", false, acme, "", 0},
		"open, over TLS":               {"", true, nil, "", 0},
		"bearer":                       {bearerChallenge, false, acme, "Bearer bot-1", 0},
		"bearer, over TLS":             {bearerChallenge, true, acme, "Bearer bot-1", 0},
		"bearer, nobody":               {bearerChallenge, false, nil, "Bearer -1", 0},
		"bearer, token alone":          {bearerChallenge, false, alone, "Bearer dop_v1-1", 0},
		"basic":                        {`Basic realm="x"`, false, acme, basicHeader("bot", "pw"), 0},
		"basic, nobody":                {`Basic realm="x"`, true, nil, "", 0},
		"basic, token alone":           {`BASIC`, false, alone, basicHeader("dop_v1", "dop_v1"), 0},
		"bearer without a realm":       {`Bearer service="x"`, false, acme, "", oci.UpstreamError},
		"bearer without realm, nobody": {`Bearer service="x"`, false, nil, "", oci.UpstreamError},
		"negotiate":                    {`Negotiate`, false, acme, "", oci.UpstreamError},
		"negotiate, nobody":            {`Negotiate`, false, nil, "", 0},
		"an empty challenge":           {` `, false, acme, "", oci.UpstreamError},
		"an empty challenge, nobody":   {` `, false, nil, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRegistry(t, tc.tls)
			f.challenge = tc.challenge
			a := f.authority(AuthorityOptions{})
			if f.get(&f.pings) != 0 {
				t.Error("making an authority sent a request")
			}
			for range 3 {
				got, err := f.header(a, tc.cred, "acme/app")
				if got != tc.want {
					t.Errorf("header %q, want %q", got, tc.want)
				}
				if tc.class != 0 {
					wantClass(t, err, tc.class)
				} else if err != nil {
					t.Error(err)
				}
			}
			if n := f.get(&f.pings); n != 1 {
				t.Errorf("%d pings, want 1", n)
			}
			if want := "repository:acme/app:pull"; strings.HasPrefix(tc.want, "Bearer") && (len(f.scopes) != 1 || f.scopes[0] != want) {
				t.Errorf("scopes %q, want %q once", f.scopes, want)
			}
		})
	}
}

func TestAuthorizeElsewhereIsRefused(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(AuthorityOptions{})
	for _, u := range []string{"http://127.0.0.1:1/v2/x", strings.Replace(f.URL, "http", "https", 1) + "/v2/x", "http://u@" + f.URL[7:] + "/v2/x"} {
		req := f.pull("x")
		req.URL = mustURL(t, u)
		req.Header.Set("Authorization", "Bearer old")
		err := a.Authorize(t.Context(), req, credential("acme", "ci", "bot", "pw"), "x")
		wantClass(t, err, oci.UpstreamError)
		if req.Header.Get("Authorization") != "" {
			t.Errorf("%s: a header was set or left", u)
		}
	}
	bare := credential("acme", "ci", "bot", "pw")
	bare.Fingerprint = ""
	_, err := f.header(a, bare, "x")
	wantClass(t, err, oci.UpstreamError)
	if f.get(&f.pings)+f.get(&f.tokenRequests) != 0 {
		t.Error("something was sent")
	}
}

func TestTokenLife(t *testing.T) {
	for _, tc := range []struct {
		answer    string
		good, bad time.Duration // after which it is still used, and no more
	}{
		{`{"token":"T","expires_in":300}`, 269 * time.Second, 271 * time.Second}, // 10 %
		{`{"token":"T","expires_in":60}`, 49 * time.Second, 51 * time.Second},    // 10 s
		{`{"access_token":"T"}`, 49 * time.Second, 51 * time.Second},             // 60 s by default
		{`{"token":"T","expires_in":0}`, 49 * time.Second, 51 * time.Second},
		{`{"token":"T","expires_in":-5}`, 49 * time.Second, 51 * time.Second},
		{`{"token":"T","access_token":"U","expires_in":4}`, time.Second, 3 * time.Second},
		{`{"token":"T","expires_in":9223372036854775807}`, 21 * time.Hour, 22 * time.Hour},
		// By the server's clock it has ended long ago; ours counts from receipt.
		{`{"token":"T","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}`, 269 * time.Second, 271 * time.Second},
	} {
		f, c := newFakeRegistry(t, false), newClock()
		f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { fmt.Fprint(w, tc.answer) }
		a := f.authority(AuthorityOptions{Now: c.now})
		ask := func() {
			t.Helper()
			if h, err := f.header(a, nil, "x"); err != nil || h != "Bearer T" {
				t.Fatalf("%s: %q, %v", tc.answer, h, err)
			}
		}
		ask()
		c.advance(tc.good)
		ask()
		if n := f.get(&f.tokenRequests); n != 1 {
			t.Errorf("%s: renewed after %s", tc.answer, tc.good)
		}
		c.advance(tc.bad - tc.good)
		ask()
		if n := f.get(&f.tokenRequests); n != 2 {
			t.Errorf("%s: not renewed after %s", tc.answer, tc.bad)
		}
	}
}

// While a token still lives, trouble at the token endpoint does not show.
func TestRenewalTroubleIsHidden(t *testing.T) {
	f, c := newFakeRegistry(t, false), newClock()
	a := f.authority(AuthorityOptions{Now: c.now})
	cred := credential("acme", "ci", "bot", "pw")
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	answer := func(status int) {
		f.be(func() {
			f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { w.WriteHeader(status) }
		})
	}
	answer(http.StatusBadGateway)
	c.advance(280 * time.Second)
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("in trouble: %q, %v", h, err)
	}
	c.advance(30 * time.Second) // now it has ended
	_, err := f.header(a, cred, "x")
	wantClass(t, err, oci.UpstreamError)
	answer(http.StatusUnauthorized)
	_, err = f.header(a, cred, "x")
	wantClass(t, err, oci.Unauthorized)
}

func TestRefusalDuringRenewalCounts(t *testing.T) {
	f, c := newFakeRegistry(t, false), newClock()
	a := f.authority(AuthorityOptions{Now: c.now})
	cred := credential("acme", "ci", "bot", "pw")
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	f.be(func() {
		f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { refuse(w, 401, "UNAUTHORIZED", "no") }
	})
	c.advance(280 * time.Second)
	_, err := f.header(a, cred, "x")
	wantClass(t, err, oci.Unauthorized)
}

func TestTokenAnswers(t *testing.T) {
	acme := credential("acme", "ci", "bot", canary)
	shared := credential("", "bot", "bot", canary)
	for name, tc := range map[string]struct {
		kind   string
		cred   *Credential
		status int
		header map[string]string
		body   string

		class oci.Class
		code  oci.Code
		says  string
		after time.Duration
	}{
		"wrong password":                      {DockerHub, acme, 401, nil, `{"details":"incorrect username or password"}`, oci.Unauthorized, oci.CodeDenied, `organisation acme: registry.test refused account "ci" (401): its token has expired or the user name is wrong; renew it and pull again`, 0},
		"this node's own account":             {DockerHub, shared, 401, nil, ``, oci.Unauthorized, oci.CodeDenied, `this node: registry.test refused account "bot"`, 0},
		"GHCR: nobody, private or missing":    {GHCR, nil, 401, nil, specBody("UNAUTHORIZED", "authentication required"), oci.NoCredential, oci.CodeDenied, "is not public", 0},
		"GHCR: nobody, 403":                   {GHCR, nil, 403, nil, specBody("DENIED", "denied"), oci.NoCredential, oci.CodeDenied, "is not public", 0},
		"GHCR: no right to packages":          {GHCR, acme, 403, nil, specBody("DENIED", "permission_denied: read_package"), oci.Denied, oci.CodeDenied, "read:packages", 0},
		"403 elsewhere is about a repository": {Generic, acme, 403, nil, specBody("DENIED", "no"), oci.Denied, oci.CodeDenied, `denied account "ci" (403)`, 0},
		"403 elsewhere, expired":              {Generic, acme, 403, nil, specBody("DENIED", "Your authorization token has expired."), oci.Unauthorized, oci.CodeDenied, "has expired", 0},
		"DigitalOcean: unknown registry":      {DigitalOcean, acme, 400, nil, `{"id":"bad_request","message":"x"}`, oci.NotFound, oci.CodeNameUnknown, "no repository acme/app", 0},
		"Quay: bad scope":                     {Quay, acme, 400, nil, `{"error":"INVALID_REQUEST"}`, oci.NotFound, oci.CodeNameUnknown, "", 0},
		"400 elsewhere":                       {Generic, acme, 400, nil, ``, oci.UpstreamError, oci.CodeUnknown, "unexpected status (400)", 0},
		"404":                                 {Generic, acme, 404, nil, ``, oci.UpstreamError, oci.CodeUnknown, "the token endpoint of registry.test", 0},
		"405":                                 {Generic, acme, 405, nil, ``, oci.UpstreamError, oci.CodeUnknown, "", 0},
		"429 in seconds":                      {Generic, acme, 429, map[string]string{"Retry-After": "30"}, ``, oci.RateLimited, oci.CodeTooManyRequests, "30 s", 30 * time.Second},
		"429 in the message":                  {GHCR, nil, 429, nil, specBody("TOOMANYREQUESTS", "retry-after: 2s, allowed: 44000/minute"), oci.RateLimited, oci.CodeTooManyRequests, "", 2 * time.Second},
		"503":                                 {Generic, acme, 503, map[string]string{"Retry-After": "3"}, ``, oci.UpstreamError, oci.CodeUnknown, "in trouble (503)", 3 * time.Second},
		"no JSON":                             {Generic, acme, 200, nil, `<html>` + canary, oci.UpstreamError, oci.CodeUnknown, "no JSON", 0},
		"no token":                            {Generic, acme, 200, nil, `{"refresh_token":"` + canary + `"}`, oci.UpstreamError, oci.CodeUnknown, "no token", 0},
		"a token that fits no header":         {Generic, acme, 200, nil, `{"token":"` + canary + `\r\nX: y"}`, oci.UpstreamError, oci.CodeUnknown, "fits no header", 0},
		"too long":                            {Generic, acme, 200, nil, `{"token":"` + strings.Repeat("x", 65<<10) + `"}`, oci.UpstreamError, oci.CodeUnknown, "too long", 0},
		"empty":                               {Generic, acme, 200, nil, ``, oci.UpstreamError, oci.CodeUnknown, "", 0},
		"an echo of what was sent":            {Generic, acme, 401, nil, specBody("UNAUTHORIZED", "bot:"+canary+" is wrong, "+pair("bot:"+canary)), oci.Unauthorized, oci.CodeDenied, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f, logs := newFakeRegistry(t, false), &logbook{}
			f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) {
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			}
			a := f.authority(AuthorityOptions{Type: typeNamed(t, tc.kind), Logger: logs.logger()})
			h, err := f.header(a, tc.cred, "acme/app")
			e := asClass(t, err, tc.class)
			if h != "" || e.WireCode() != tc.code || e.RetryAfter != tc.after || !strings.Contains(e.Message, tc.says) {
				t.Errorf("header %q code %s after %s: %s", h, e.WireCode(), e.RetryAfter, e.Message)
			}
			for _, secret := range []string{canary, pair("bot:" + canary), "xxxxxxxxxx"} {
				if strings.Contains(e.Error()+e.Detail+logs.String(), secret) {
					t.Errorf("a secret shows: %v; log %s", e, logs)
				}
			}
			if n := f.get(&f.tokenRequests); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}

// A token endpoint's redirect is not followed, with or without credentials.
func TestTokenRedirectIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		f := newFakeRegistry(t, false)
		f.token = func(w http.ResponseWriter, r *http.Request, _, _ string) {
			http.Redirect(w, r, "/stolen", status) // the fake complains about any such request
		}
		a := f.authority(AuthorityOptions{})
		for _, cred := range []*Credential{credential("acme", "ci", "bot", "pw"), nil} {
			_, err := f.header(a, cred, "x")
			if e := asClass(t, err, oci.UpstreamError); !strings.Contains(e.Message, "elsewhere") {
				t.Error(e)
			}
		}
	}
}

func TestPingAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		class  oci.Class
		says   string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }, oci.UpstreamError, "sends everyone elsewhere (302"},
		"404":      {http.NotFound, oci.UpstreamError, "does not answer like a registry (404"},
		"403":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, oci.UpstreamError, "(403"},
		"429": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(http.StatusTooManyRequests)
		}, oci.RateLimited, "9 s"},
		"503":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, oci.UpstreamError, "in trouble (503)"},
		"endless page": {func(w http.ResponseWriter, r *http.Request) { endless(w, r, 404) }, oci.UpstreamError, "(404"},
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
			a := f.authority(AuthorityOptions{})
			for i := range 2 {
				h, err := f.header(a, credential("acme", "ci", "bot", "pw"), "x")
				if e := asClass(t, err, tc.class); h != "" || !strings.Contains(e.Message, tc.says) {
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

// A https origin is never asked over http, although it lies on the loopback
// interface, where go-containerregistry would try.
func TestNoDowngrade(t *testing.T) {
	f := newFakeRegistry(t, true)
	f.challenge = `Bearer realm="http://` + strings.TrimPrefix(f.URL, "https://") + `/token"`
	var plain int
	inner := f.Client().Transport
	a := f.authority(AuthorityOptions{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme != "https" {
			f.count(&plain)
		}
		return inner.RoundTrip(r)
	})})
	_, err := f.header(a, credential("acme", "ci", "bot", "pw"), "x")
	wantClass(t, err, oci.UpstreamError)
	f.Close()
	b := f.authority(AuthorityOptions{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme != "https" {
			f.count(&plain)
		}
		return inner.RoundTrip(r)
	})})
	_, err = f.header(b, nil, "x")
	wantClass(t, err, oci.Unreachable)
	if f.get(&plain) > 0 {
		t.Errorf("%d requests over http", f.get(&plain))
	}
}

// Ten credentials pull one repository at the same time: each request carries
// the token of its own credential, whatever is dropped and fetched meanwhile.
func TestCredentialsDoNotMix(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(AuthorityOptions{Tokens: 7}) // fewer than are in use
	creds := make([]*Credential, 10)
	for i := range creds {
		creds[i] = credential(fmt.Sprintf("org%d", i%5), fmt.Sprintf("a%d", i), fmt.Sprintf("user%d", i), fmt.Sprintf("pw%d", i))
	}
	f.token = func(w http.ResponseWriter, _ *http.Request, user, password string) {
		if strings.TrimPrefix(user, "user") != strings.TrimPrefix(password, "pw") {
			t.Errorf("user %s came with password %s", user, password)
		}
		f.grant(w, user, 300)
	}
	var all sync.WaitGroup
	for i := range 4 * len(creds) {
		all.Go(func() {
			for n := range 250 {
				k := (i + n) % len(creds)
				req := f.pull("acme/app")
				if err := a.Authorize(t.Context(), req, creds[k], "acme/app"); err != nil {
					t.Error(err)
					return
				}
				if h := req.Header.Get("Authorization"); !strings.HasPrefix(h, fmt.Sprintf("Bearer user%d-", k)) {
					t.Errorf("user%d carries %q", k, h)
				}
				if n%50 == 49 {
					a.Rejected(req, creds[k], "acme/app")
				}
			}
		})
	}
	all.Wait()
}

func TestRejected(t *testing.T) {
	f, c := newFakeRegistry(t, false), newClock()
	a := f.authority(AuthorityOptions{Now: c.now})
	cred := credential("acme", "ci", "bot", "pw")
	authorise := func() *http.Request {
		t.Helper()
		req := f.pull("x")
		if err := a.Authorize(t.Context(), req, cred, "x"); err != nil {
			t.Fatal(err)
		}
		return req
	}
	first := authorise()
	if a.Rejected(first, cred, "x") {
		t.Error("a token that was granted a moment ago is worth another try")
	}
	second := authorise()
	if second.Header.Get("Authorization") == first.Header.Get("Authorization") {
		t.Error("a rejected token is used again")
	}
	c.advance(5 * time.Second)
	if !a.Rejected(second, cred, "x") {
		t.Error("an older token is not worth another try")
	}
	third := authorise()
	if !a.Rejected(second, cred, "x") {
		t.Error("a token that was replaced meanwhile is not worth another try")
	}
	if h := authorise().Header.Get("Authorization"); h != third.Header.Get("Authorization") {
		t.Error("the rejection of an old token dropped the new one")
	}
	if n := f.get(&f.tokenRequests); n != 3 {
		t.Errorf("%d token requests, want 3", n)
	}
	if a.Rejected(f.pull("x"), cred, "x") {
		t.Error("a request without a header is worth another try")
	}
	// Doubt about the challenge asks for it again, at most every so often.
	if n := f.get(&f.pings); n != 1 {
		t.Errorf("%d pings so far, want 1", n)
	}
	c.advance(reprobe)
	authorise()
	authorise()
	if n := f.get(&f.pings); n != 2 {
		t.Errorf("%d pings, want 2", n)
	}
}

// The challenge that counts is that of a request without credentials, and a
// registry may change it.
func TestChallengeChanges(t *testing.T) {
	f, c, logs := newFakeRegistry(t, false), newClock(), &logbook{}
	f.challenge = `Basic realm="old"`
	a := f.authority(AuthorityOptions{Now: c.now, Logger: logs.logger()})
	cred := credential("acme", "ci", "bot", "pw")
	req := f.pull("x")
	if err := a.Authorize(t.Context(), req, cred, "x"); err != nil {
		t.Fatal(err)
	}
	f.be(func() { f.challenge = bearerChallenge })
	if a.Rejected(req, cred, "x") {
		t.Error("Basic credentials that were refused are worth another try")
	}
	_, err := f.header(a, cred, "x")
	wantClass(t, err, oci.Unauthorized)
	c.advance(firstCoolDown) // the cool-down ends, and the challenge is asked for again
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("after the change: %q, %v", h, err)
	}
	// The registry goes away for a while: the challenge stays.
	a.probe.suspect()
	f.be(func() { f.challenge = "" })
	c.advance(reprobe)
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

func TestChallenged(t *testing.T) {
	f := newFakeRegistry(t, false)
	f.challenge = "" // 200 at /v2/, credentials wanted further down
	a := f.authority(AuthorityOptions{})
	cred := credential("acme", "ci", "bot", "pw")
	if h, err := f.header(a, cred, "x"); err != nil || h != "" {
		t.Fatal(h, err)
	}
	challenge := http.Header{"Www-Authenticate": {strings.ReplaceAll(bearerChallenge, "%s", f.URL)}}
	if !a.Challenged(challenge) {
		t.Error("a challenge is no news")
	}
	if a.Challenged(challenge) {
		t.Error("the same challenge is news again")
	}
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("after the challenge: %q, %v", h, err)
	}
	for _, useless := range []http.Header{nil, {}, {"Www-Authenticate": {""}}, {"Www-Authenticate": {"Negotiate"}}} {
		if a.Challenged(useless) {
			t.Errorf("%v is news", useless)
		}
	}
	if got, err := a.Challenge(t.Context()); err != nil || got.Scheme != "bearer" || got.Realm != f.URL+"/token" || got.Service != "registry.test" {
		t.Errorf("challenge %+v, %v", got, err)
	}
	a.Challenged(http.Header{"Www-Authenticate": {`Bearer realm="https://evil.test/t"`}})
	if got, err := a.Challenge(t.Context()); err == nil || got.Realm != "https://evil.test/t" {
		t.Errorf("a foreign realm: %+v, %v", got, err)
	}
	if n := f.get(&f.pings); n != 1 {
		t.Errorf("%d pings, want 1", n)
	}
}

// hold makes the token endpoint wait until it is told to go on. entered gets
// one value for every request that waits.
func (f *fakeRegistry) hold() (entered chan string, goOn func()) {
	entered, release := make(chan string, 100), make(chan struct{})
	f.be(func() {
		f.token = func(w http.ResponseWriter, r *http.Request, user, _ string) {
			entered <- r.URL.Query().Get("scope")
			select {
			case <-release:
				f.grant(w, user, 300)
			case <-r.Context().Done():
			}
		}
	})
	return entered, sync.OnceFunc(func() { close(release) })
}

// One request for all who wait, whoever of them leaves.
func TestSingleFlight(t *testing.T) {
	f := newFakeRegistry(t, false)
	entered, goOn := f.hold()
	defer goOn()
	a := f.authority(AuthorityOptions{})
	cred := credential("acme", "ci", "bot", "pw")
	leaving, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- a.Authorize(leaving, f.pull("x"), cred, "x") }()
	<-entered
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
				t.Errorf("%q, %v", h, err)
			}
		})
	}
	leave()
	wantClass(t, <-left, oci.ClientGone)
	goOn()
	all.Wait()
	if n := f.get(&f.tokenRequests); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestTokenTimeout(t *testing.T) {
	f := newFakeRegistry(t, false)
	_, goOn := f.hold()
	defer goOn()
	a := f.authority(AuthorityOptions{Timeout: 50 * time.Millisecond})
	_, err := f.header(a, nil, "x")
	if e := asClass(t, err, oci.Timeout); !strings.Contains(e.Message, "registry.test") {
		t.Error(e)
	}
}

func TestClose(t *testing.T) {
	f := newFakeRegistry(t, false)
	entered, goOn := f.hold()
	defer goOn()
	a := f.authority(AuthorityOptions{})
	done := make(chan error)
	go func() { done <- a.Authorize(t.Context(), f.pull("x"), nil, "x") }()
	<-entered
	a.Close()
	if err := <-done; err == nil {
		t.Error("authorised after the end")
	}
	err := a.Authorize(t.Context(), f.pull("y"), nil, "y")
	if err == nil || !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestNewAuthorityRefuses(t *testing.T) {
	good := oci.Origin{Scheme: "https", Host: "ghcr.io"}
	for name, o := range map[string]AuthorityOptions{
		"no transport": {Origin: good},
		"no origin":    {Transport: http.DefaultTransport},
		"bad endpoint": {Origin: good, Transport: http.DefaultTransport, TokenEndpoints: []string{"http://x"}},
		"no room":      {Origin: good, Transport: http.DefaultTransport, Tokens: -1},
	} {
		if a, err := NewAuthority(o); err == nil {
			a.Close()
			t.Errorf("%s: taken", name)
		}
	}
}

func TestMetrics(t *testing.T) {
	f, c, reg := newFakeRegistry(t, false), newClock(), prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	a := f.authority(AuthorityOptions{Now: c.now, Metrics: m})
	cred := credential("acme", "ci", "bot", "pw")
	f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { w.WriteHeader(http.StatusUnauthorized) }
	_, _ = f.header(a, cred, "x")
	_, _ = f.header(a, nil, "x")
	want := func(ok, until string) {
		t.Helper()
		labels := `{account="ci",organisation="acme",registry="registry.test"} `
		expected := "# HELP berth_cooldown_until_timestamp_seconds Until when the registry is not asked with this credential, as a Unix time; 0: it is asked.\n# TYPE berth_cooldown_until_timestamp_seconds gauge\nberth_cooldown_until_timestamp_seconds" + labels + until +
			"\n# HELP berth_credential_ok Whether the registry took the credential when it was last shown: 1 or 0.\n# TYPE berth_credential_ok gauge\nberth_credential_ok" + labels + ok + "\n"
		if err := testutil.GatherAndCompare(reg, strings.NewReader(expected)); err != nil {
			t.Error(err)
		}
	}
	want("0", fmt.Sprint(float64(c.now().Add(time.Minute).Unix())))
	f.be(func() { f.token = nil })
	c.advance(time.Minute)
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	want("1", "0")
	m.Forget("acme", "registry.test", "ci")
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
		t.Errorf("%d series are left, %v", n, err)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("registered twice")
	}
	var none *Metrics
	none.CredentialOK(cred, true)
	none.CoolDown(cred, time.Time{})
	none.Forget("", "", "")
}
