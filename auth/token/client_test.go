package token

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/flight"
	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
)

func TestAuthorizeByScheme(t *testing.T) {
	acme := testAccount("acme", "ci", "bot", "pw")
	alone := testAccount("acme", "do", "", "dop_v1")
	for name, tc := range map[string]struct {
		challenge string
		tls       bool
		cred      *credential.Credential
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
			a := f.authority(Options{})
			if f.get(&f.pings) != 0 {
				t.Error("making an authority sent a request")
			}
			for range 3 {
				got, err := f.header(a, tc.cred, "acme/app")
				if got != tc.want {
					t.Errorf("header %q, want %q", got, tc.want)
				}
				if tc.class != 0 {
					ocitest.WantClass(t, err, tc.class)
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
	a := f.authority(Options{})
	for _, u := range []string{"http://127.0.0.1:1/v2/x", strings.Replace(f.URL, "http", "https", 1) + "/v2/x", "http://u@" + f.URL[7:] + "/v2/x"} {
		req := f.pull("x")
		req.URL = mustURL(t, u)
		req.Header.Set("Authorization", "Bearer old")
		err := a.Authorize(t.Context(), req, testAccount("acme", "ci", "bot", "pw"), "x")
		ocitest.WantClass(t, err, oci.UpstreamError)
		if req.Header.Get("Authorization") != "" {
			t.Errorf("%s: a header was set or left", u)
		}
	}
	bare := testAccount("acme", "ci", "bot", "pw")
	bare.Fingerprint = ""
	_, err := f.header(a, bare, "x")
	ocitest.WantClass(t, err, oci.UpstreamError)
	if f.get(&f.pings)+f.get(&f.tokenRequests) != 0 {
		t.Error("something was sent")
	}
}

// Ten credentials pull one repository at the same time: each request carries
// the token of its own credential, whatever is dropped and fetched meanwhile.
func TestCredentialsDoNotMix(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(Options{Kept: fewTokens(7)}) // fewer than are in use
	creds := make([]*credential.Credential, 10)
	for i := range creds {
		creds[i] = testAccount(fmt.Sprintf("org%d", i%5), fmt.Sprintf("a%d", i), fmt.Sprintf("user%d", i), fmt.Sprintf("pw%d", i))
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
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	a := f.authority(Options{Now: c.Now})
	cred := testAccount("acme", "ci", "bot", "pw")
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
	c.Advance(5 * time.Second)
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
	c.Advance(reprobe)
	authorise()
	authorise()
	if n := f.get(&f.pings); n != 2 {
		t.Errorf("%d pings, want 2", n)
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
	a := f.authority(Options{})
	cred := testAccount("acme", "ci", "bot", "pw")
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
	ocitest.WantClass(t, <-left, oci.ClientGone)
	goOn()
	all.Wait()
	if n := f.get(&f.tokenRequests); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestClose(t *testing.T) {
	f := newFakeRegistry(t, false)
	entered, goOn := f.hold()
	defer goOn()
	a := f.authority(Options{Timeout: time.Hour}) // or Close would wait that long
	done := make(chan error)
	go func() { done <- a.Authorize(t.Context(), f.pull("x"), nil, "x") }()
	<-entered
	a.Close()
	if err := <-done; err == nil {
		t.Error("authorised after the end")
	}
	err := a.Authorize(t.Context(), f.pull("y"), nil, "y")
	if err == nil || !errors.Is(err, flight.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestNewAuthorityRefuses(t *testing.T) {
	good := oci.Origin{Scheme: "https", Host: "ghcr.io"}
	for name, o := range map[string]Options{
		"no transport": {Origin: good},
		"no origin":    {Transport: http.DefaultTransport},
		"bad endpoint": {Origin: good, Transport: http.DefaultTransport, TokenEndpoints: []string{"http://x"}},
	} {
		if a, err := New(o); err == nil {
			a.Close()
			t.Errorf("%s: taken", name)
		}
	}
}

// A token that served before may have been revoked since, however young it is.
func TestKeptTokenIsWorthAnotherTry(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(Options{Now: ocitest.NewClock().Now})
	cred := testAccount("acme", "ci", "bot", "pw")
	var last *http.Request
	for range 2 {
		last = f.pull("x")
		if err := a.Authorize(t.Context(), last, cred, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if !a.Rejected(last, cred, "x") {
		t.Error("a token that was handed out again is not worth another try")
	}
}

// Whoever asks for name after name does not make the node ask for others' tokens again.
func TestTokens_OthersStay(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(Options{Kept: fewTokens(20)})
	acme, globex := testAccount("acme", "ci", "bot", "pw"), testAccount("globex", "ci", "other", "pw")
	for _, who := range []*credential.Credential{acme, globex} {
		for i := range 100 {
			if who == acme && i == 5 {
				break
			}
			if _, err := f.header(a, who, fmt.Sprint("repo", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := f.get(&f.tokenRequests)
	for i := range 5 {
		if _, err := f.header(a, acme, fmt.Sprint("repo", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.get(&f.tokenRequests) - before; n != 0 {
		t.Errorf("acme's tokens were pushed out: %d requests", n)
	}
}
