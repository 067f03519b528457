package token

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

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
		f, c := newFakeRegistry(t, false), ocitest.NewClock()
		f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { fmt.Fprint(w, tc.answer) }
		a := f.authority(Options{Now: c.Now})
		ask := func() {
			t.Helper()
			if h, err := f.header(a, nil, "x"); err != nil || h != "Bearer T" {
				t.Fatalf("%s: %q, %v", tc.answer, h, err)
			}
		}
		ask()
		c.Advance(tc.good)
		ask()
		if n := f.get(&f.tokenRequests); n != 1 {
			t.Errorf("%s: renewed after %s", tc.answer, tc.good)
		}
		c.Advance(tc.bad - tc.good)
		ask()
		if n := f.get(&f.tokenRequests); n != 2 {
			t.Errorf("%s: not renewed after %s", tc.answer, tc.bad)
		}
	}
}

// While a token still lives, trouble at the token endpoint does not show.
func TestRenewalTroubleIsHidden(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	a := f.authority(Options{Now: c.Now})
	cred := testAccount("acme", "ci", "bot", "pw")
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	answer := func(status int) {
		f.be(func() {
			f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { w.WriteHeader(status) }
		})
	}
	answer(http.StatusBadGateway)
	c.Advance(280 * time.Second)
	if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
		t.Errorf("in trouble: %q, %v", h, err)
	}
	c.Advance(30 * time.Second) // now it has ended
	_, err := f.header(a, cred, "x")
	ocitest.WantClass(t, err, oci.UpstreamError)
	answer(http.StatusUnauthorized)
	_, err = f.header(a, cred, "x")
	ocitest.WantClass(t, err, oci.Unauthorized)
}

func TestRefusalDuringRenewalCounts(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	a := f.authority(Options{Now: c.Now})
	cred := testAccount("acme", "ci", "bot", "pw")
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	f.be(func() {
		f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { refuse(w, 401, "UNAUTHORIZED", "no") }
	})
	c.Advance(280 * time.Second)
	_, err := f.header(a, cred, "x")
	ocitest.WantClass(t, err, oci.Unauthorized)
}

func TestTokenAnswers(t *testing.T) {
	acme := testAccount("acme", "ci", "bot", canary)
	shared := testAccount("", "bot", "bot", canary)
	for name, tc := range map[string]struct {
		kind   string
		cred   *credential.Credential
		status int
		header map[string]string
		body   string

		class oci.Class
		code  oci.Code
		says  string
		after time.Duration
	}{
		"wrong password":                      {dialect.DockerHub, acme, 401, nil, `{"details":"incorrect username or password"}`, oci.Unauthorized, oci.CodeDenied, `organisation acme: registry.test refused account "ci" (401): its token has expired or the user name is wrong; renew it and pull again`, 0},
		"this node's own account":             {dialect.DockerHub, shared, 401, nil, ``, oci.Unauthorized, oci.CodeDenied, `this node: registry.test refused account "bot"`, 0},
		"GHCR: nobody, private or missing":    {dialect.GHCR, nil, 401, nil, specBody("UNAUTHORIZED", "authentication required"), oci.NoCredential, oci.CodeDenied, "is not public", 0},
		"GHCR: nobody, 403":                   {dialect.GHCR, nil, 403, nil, specBody("DENIED", "denied"), oci.NoCredential, oci.CodeDenied, "is not public", 0},
		"GHCR: no right to packages":          {dialect.GHCR, acme, 403, nil, specBody("DENIED", "permission_denied: read_package"), oci.Denied, oci.CodeDenied, "read:packages", 0},
		"403 elsewhere is about a repository": {dialect.Generic, acme, 403, nil, specBody("DENIED", "no"), oci.Denied, oci.CodeDenied, `denied account "ci" (403)`, 0},
		"403 elsewhere, expired":              {dialect.Generic, acme, 403, nil, specBody("DENIED", "Your authorization token has expired."), oci.Unauthorized, oci.CodeDenied, "has expired", 0},
		"DigitalOcean: unknown registry":      {dialect.DigitalOcean, acme, 400, nil, `{"id":"bad_request","message":"x"}`, oci.NotFound, oci.CodeNameUnknown, "no repository acme/app", 0},
		"Quay: bad scope":                     {dialect.Quay, acme, 400, nil, `{"error":"INVALID_REQUEST"}`, oci.NotFound, oci.CodeNameUnknown, "", 0},
		"400 elsewhere":                       {dialect.Generic, acme, 400, nil, ``, oci.UpstreamError, oci.CodeUnknown, "unexpected status (400)", 0},
		"404":                                 {dialect.Generic, acme, 404, nil, ``, oci.UpstreamError, oci.CodeUnknown, "the token endpoint of registry.test", 0},
		"405":                                 {dialect.Generic, acme, 405, nil, ``, oci.UpstreamError, oci.CodeUnknown, "", 0},
		"429 in seconds":                      {dialect.Generic, acme, 429, map[string]string{"Retry-After": "30"}, ``, oci.RateLimited, oci.CodeTooManyRequests, "30 s", 30 * time.Second},
		"429 in the message":                  {dialect.GHCR, nil, 429, nil, specBody("TOOMANYREQUESTS", "retry-after: 2s, allowed: 44000/minute"), oci.RateLimited, oci.CodeTooManyRequests, "", 2 * time.Second},
		"503":                                 {dialect.Generic, acme, 503, map[string]string{"Retry-After": "3"}, ``, oci.UpstreamError, oci.CodeUnknown, "in trouble (503)", 3 * time.Second},
		"no JSON":                             {dialect.Generic, acme, 200, nil, `<html>` + canary, oci.UpstreamError, oci.CodeUnknown, "no JSON", 0},
		"no token":                            {dialect.Generic, acme, 200, nil, `{"refresh_token":"` + canary + `"}`, oci.UpstreamError, oci.CodeUnknown, "no token", 0},
		"a token that fits no header":         {dialect.Generic, acme, 200, nil, `{"token":"` + canary + `\r\nX: y"}`, oci.UpstreamError, oci.CodeUnknown, "fits no header", 0},
		"too long":                            {dialect.Generic, acme, 200, nil, `{"token":"` + strings.Repeat("x", 65<<10) + `"}`, oci.UpstreamError, oci.CodeUnknown, "too long", 0},
		"a token that no registry takes":      {dialect.Generic, acme, 200, nil, `{"token":"` + strings.Repeat("x", 16<<10+1) + `"}`, oci.UpstreamError, oci.CodeUnknown, "a token of more than 16 KiB", 0},
		"empty":                               {dialect.Generic, acme, 200, nil, ``, oci.UpstreamError, oci.CodeUnknown, "", 0},
		"an echo of what was sent":            {dialect.Generic, acme, 401, nil, specBody("UNAUTHORIZED", "bot:"+canary+" is wrong, "+pair("bot:"+canary)), oci.Unauthorized, oci.CodeDenied, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f, logs := newFakeRegistry(t, false), &ocitest.Log{}
			f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) {
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			}
			a := f.authority(Options{Type: typeNamed(t, tc.kind), Logger: logs.Logger()})
			h, err := f.header(a, tc.cred, "acme/app")
			e := ocitest.AsClass(t, err, tc.class)
			if h != "" || e.WireCode() != tc.code || e.RetryAfter != tc.after || !strings.Contains(e.Message, tc.says) {
				t.Errorf("header %q code %s after %s: %s", h, e.WireCode(), e.RetryAfter, e.Message)
			}
			for _, secret := range []string{canary, pair("bot:" + canary), "xxxxxxxxxx"} {
				if strings.Contains(e.Error()+e.Detail+logs.String(), secret) {
					t.Errorf("a secret shows: %v; log %s", e, logs)
				}
			}
			want := 1
			if tc.class == oci.Unauthorized { // is it the credential or the repository?
				want = 2
			}
			if n := f.get(&f.tokenRequests); n != want {
				t.Errorf("%d token requests, want %d", n, want)
			}
		})
	}
}

// A token endpoint's redirect leads to nowhere but where a realm might lead, with or
// without credentials; and one that leads in a circle ends.
func TestTokenRedirect_LeadsNowhereElse(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked", r.URL) }))
	defer thief.Close()
	for _, to := range []string{thief.URL + "/token", "//" + strings.TrimPrefix(thief.URL, "http://"), "http://user@127.0.0.1/", "", "%zz", "/token?again"} {
		f := newFakeRegistry(t, false)
		asked := 0
		f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) {
			asked++
			w.Header()["Location"] = []string{to}
			w.WriteHeader([]int{301, 302, 303, 307, 308}[asked%5])
		}
		a := f.authority(Options{})
		for _, cred := range []*credential.Credential{testAccount("acme", "ci", "bot", "pw"), nil} {
			_, err := f.header(a, cred, "x")
			if e := ocitest.AsClass(t, err, oci.UpstreamError); !strings.Contains(e.Message, "elsewhere") {
				t.Errorf("%q: %v", to, e)
			}
		}
		if asked > 2*(maxMoves+1) {
			t.Errorf("%q: asked %d times", to, asked)
		}
	}
}

func TestTokenTimeout(t *testing.T) {
	f := newFakeRegistry(t, false)
	_, goOn := f.hold()
	defer goOn()
	a := f.authority(Options{Timeout: 50 * time.Millisecond})
	_, err := f.header(a, nil, "x")
	if e := ocitest.AsClass(t, err, oci.Timeout); !strings.Contains(e.Message, "registry.test") {
		t.Error(e)
	}
}
