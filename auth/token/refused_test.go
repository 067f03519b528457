package token

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/classify"
	"berth/upstream/dialect"
)

// Twenty pulls at once with an expired token: one token request, and one that finds out
// whether it is about the repository.
func TestExpiredTokenIsNotHammered(t *testing.T) {
	for _, kind := range []string{dialect.Generic, dialect.GHCR} {
		for _, sameRepo := range []bool{true, false} {
			f, c := newFakeRegistry(t, false), ocitest.NewClock()
			f.token = func(w http.ResponseWriter, _ *http.Request, user, _ string) {
				switch {
				case user == "":
					f.grant(w, "nobody", 300)
				case kind == dialect.GHCR:
					refuse(w, 403, "DENIED", "denied")
				default:
					refuse(w, 401, "UNAUTHORIZED", "expired")
				}
			}
			a := f.authority(Options{Type: typeNamed(t, kind), Now: c.Now})
			cred := testAccount("acme", "ci", "bot", "pw")
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					repo := "acme/app"
					if !sameRepo {
						repo = fmt.Sprintf("acme/app%d", i)
					}
					for range 2 {
						_, err := f.header(a, cred, repo)
						ocitest.WantClass(t, err, oci.Unauthorized)
					}
				})
			}
			all.Wait()
			if n := f.get(&f.tokenRequests); n != 2 {
				t.Errorf("%s, same repository %v: %d token requests, want 2", kind, sameRepo, n)
			}
			// Nobody and another credential are not concerned.
			if _, err := f.header(a, nil, "acme/app"); err != nil {
				t.Errorf("nobody: %v", err)
			}
		}
	}
}

// At GHCR a 403 is also what a good credential gets for what it may not read.
// That must not stop its other pulls.
func TestGHCRDeniedRepository(t *testing.T) {
	f := newFakeRegistry(t, false)
	f.token = func(w http.ResponseWriter, r *http.Request, user, _ string) {
		if strings.Contains(r.URL.Query().Get("scope"), "secret") {
			refuse(w, 403, "DENIED", "denied")
			return
		}
		f.grant(w, user, 300)
	}
	a := f.authority(Options{Type: typeNamed(t, dialect.GHCR)})
	cred := testAccount("acme", "ci", "bot", "pw")
	_, err := f.header(a, cred, "other/secret")
	if e := ocitest.AsClass(t, err, oci.Denied); !strings.Contains(e.Message, "other/secret") {
		t.Error(e)
	}
	if h, err := f.header(a, cred, "acme/app"); err != nil || h == "" {
		t.Errorf("the other repository: %q, %v", h, err)
	}
	if f.scopes[1] != "" {
		t.Errorf("scopes %q: the second is to be the login's", f.scopes)
	}
	_, err = f.header(a, nil, "other/secret")
	ocitest.WantClass(t, err, oci.NoCredential)
	if n := f.get(&f.tokenRequests); n != 4 {
		t.Errorf("%d token requests, want 4", n)
	}
}

func TestCoolDownGrowsAndClears(t *testing.T) {
	f, c, logs := newFakeRegistry(t, false), ocitest.NewClock(), &ocitest.Log{}
	bad := func(w http.ResponseWriter, _ *http.Request, _, _ string) { refuse(w, 401, "UNAUTHORIZED", "no") }
	f.token = bad
	a := f.authority(Options{Now: c.Now, Logger: logs.Logger()})
	cred := testAccount("acme", "ci", "bot", canary)
	asked := 0
	refusedFor := func(d time.Duration) {
		t.Helper()
		asked += 2 // for the repository, and as docker login asks
		_, err := f.header(a, cred, "x")
		ocitest.WantClass(t, err, oci.Unauthorized)
		c.Advance(d - time.Second)
		_, err = f.header(a, cred, "x")
		e := ocitest.AsClass(t, err, oci.Unauthorized)
		if n := f.get(&f.tokenRequests); n != asked {
			t.Fatalf("%d token requests within %s, want %d", n, d, asked)
		}
		if e.RetryAfter != time.Second || !strings.Contains(e.Message, `refused account "ci" (401)`) || !strings.Contains(e.Detail, "asked again in 1 s") {
			t.Errorf("from memory: %s, %q, after %s", e, e.Detail, e.RetryAfter)
		}
		c.Advance(time.Second)
	}
	for _, minutes := range []int{1, 2, 4, 8, 15, 15} {
		refusedFor(time.Duration(minutes) * time.Minute)
	}
	f.be(func() { f.token = nil })
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatalf("after the cool-down: %v", err)
	}
	asked++
	f.be(func() { f.token = bad })
	c.Advance(time.Hour)
	refusedFor(time.Minute) // a success starts it over
	if n := strings.Count(logs.String(), "the registry refused a credential"); n != 7 {
		t.Errorf("logged %d times, want 7", n)
	}
	if !strings.Contains(logs.String(), "is taken again") || strings.Contains(logs.String(), canary) {
		t.Errorf("log: %s", logs)
	}
}

// A renewed secret is asked at once, and so is the same registry by others.
func TestCoolDownIsPerCredential(t *testing.T) {
	f := newFakeRegistry(t, false)
	f.token = func(w http.ResponseWriter, _ *http.Request, user, password string) {
		if password == "old" {
			refuse(w, 401, "UNAUTHORIZED", "no")
			return
		}
		f.grant(w, user, 300)
	}
	a := f.authority(Options{})
	_, err := f.header(a, testAccount("acme", "ci", "bot", "old"), "x")
	ocitest.WantClass(t, err, oci.Unauthorized)
	for _, cred := range []*credential.Credential{testAccount("acme", "ci", "bot", "new"), testAccount("acme", "cd", "bob", "pw"), nil} {
		if _, err := f.header(a, cred, "x"); err != nil {
			t.Errorf("%v: %v", cred, err)
		}
	}
	// Another organisation with the same dead secret is told in its own name.
	_, err = f.header(a, testAccount("other", "prod", "bot", "old"), "x")
	if e := ocitest.AsClass(t, err, oci.Unauthorized); !strings.Contains(e.Message, `organisation other: registry.test refused account "prod"`) || strings.Contains(e.Error(), "acme") {
		t.Error(e)
	}
}

// This node's own account is left alone like any other, and whoever asks as nobody
// is not held back by it, nor by refusals of his own.
func TestCoolDown_OfTheNodesOwnAccount(t *testing.T) {
	f := newFakeRegistry(t, false)
	f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { refuse(w, 401, "UNAUTHORIZED", "no") }
	logs := &ocitest.Log{}
	a := f.authority(Options{Logger: logs.Logger()})
	for range 3 {
		_, err := f.header(a, nil, "x")
		ocitest.WantClass(t, err, oci.NoCredential)
		_, err = f.header(a, testAccount("", "bot", "u", "p"), "x")
		ocitest.WantClass(t, err, oci.Unauthorized)
	}
	if n := f.get(&f.tokenRequests); n != 5 {
		t.Errorf("%d token requests, want 3 as nobody and 2 as the account", n)
	}
	if a.Refusal(testAccount("", "bot", "u", "p")) == nil || a.Refusal(testAccount("", "bot", "u", "other")) != nil || a.Refusal(nil) != nil {
		t.Error("what is remembered is not about that account")
	}
	if strings.Count(logs.String(), "left_alone_until") != 1 {
		t.Errorf("log: %s", logs)
	}
}

// A registry that now wants something else has not refused anything yet.
func TestNewChallengeEndsCoolDowns(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	f.challenge = `Basic realm="old"`
	a := f.authority(Options{Now: c.Now})
	cred := testAccount("acme", "ci", "bot", "pw")
	req := f.pull("x")
	if err := a.Authorize(t.Context(), req, cred, "x"); err != nil {
		t.Fatal(err)
	}
	a.Rejected(req, cred, "x")
	f.be(func() { f.challenge = bearerChallenge })
	c.Advance(reprobe)
	_, err := f.header(a, cred, "x")
	ocitest.WantClass(t, err, oci.Unauthorized)
	if _, err := f.header(a, nil, "x"); err != nil { // somebody else learns of it
		t.Fatal(err)
	}
	if h, err := f.header(a, cred, "x"); err != nil || !strings.HasPrefix(h, "Bearer bot-") {
		t.Errorf("after the change: %q, %v", h, err)
	}
}

// The token of an old secret is not used for the new one, which is another
// credential even if it is no better.
func TestTokensFollowTheSecret(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(Options{})
	before, err := f.header(a, testAccount("acme", "ci", "bot", "old"), "x")
	if err != nil {
		t.Fatal(err)
	}
	after, err := f.header(a, testAccount("acme", "ci", "bot", "new"), "x")
	if err != nil || after == before {
		t.Errorf("%q before, %q after, %v", before, after, err)
	}
}

// What does not concern the credential starts no cool-down.
func TestOtherFailuresDoNotCoolDown(t *testing.T) {
	for _, status := range []int{400, 403, 404, 429, 500, 503} {
		f := newFakeRegistry(t, false)
		f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { w.WriteHeader(status) }
		a := f.authority(Options{})
		cred := testAccount("acme", "ci", "bot", "pw")
		_, _ = f.header(a, cred, "x")
		f.be(func() { f.token = nil })
		if _, err := f.header(a, cred, "x"); err != nil {
			t.Errorf("after %d: %v", status, err)
		}
	}
}

func TestBasicCoolsDown(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	f.challenge = `Basic realm="x"`
	a := f.authority(Options{Now: c.Now})
	cred := testAccount("acme", "ci", "bot", "pw")
	reqs := make([]*http.Request, 20)
	for i := range reqs {
		reqs[i] = f.pull("x")
		if err := a.Authorize(t.Context(), reqs[i], cred, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, req := range reqs { // all were under way when the first was refused
		if a.Rejected(req, cred, "x") {
			t.Error("worth another try")
		}
	}
	_, err := f.header(a, cred, "x")
	if e := ocitest.AsClass(t, err, oci.Unauthorized); e.RetryAfter != firstCoolDown {
		t.Errorf("after %s: twenty refusals at once count as one", e.RetryAfter)
	}
	c.Advance(firstCoolDown)
	if h, err := f.header(a, cred, "x"); err != nil || h != basicHeader("bot", "pw") {
		t.Errorf("after the cool-down: %q, %v", h, err)
	}
	a.Rejected(reqs[0], cred, "x")
	a.Accepted(cred)
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Errorf("after a success: %v", err)
	}
	// ECR: a 403 that says "expired".
	a.Refused(cred, classify.Answer(classify.Response{Registry: "r", Credential: cred, Basic: true, Status: 403, Body: []byte("Your authorization token has expired.")}))
	_, err = f.header(a, cred, "x")
	if e := ocitest.AsClass(t, err, oci.Unauthorized); !strings.Contains(e.Message, "has expired; renew") {
		t.Error(e)
	}
	a.Accepted(cred)
	a.Refused(cred, classify.Answer(classify.Response{Registry: "r", Credential: cred, Status: 403}))
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Errorf("a denied repository stopped the credential: %v", err)
	}
}

// Pulls of several repositories by a credential that nothing is known about wait
// for the first to find out; one that waits may leave.
func TestTrialIsAlone(t *testing.T) {
	f := newFakeRegistry(t, false)
	entered, goOn := f.hold()
	defer goOn()
	a := f.authority(Options{})
	cred := testAccount("acme", "ci", "bot", "pw")
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			if _, err := f.header(a, cred, fmt.Sprintf("r%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	<-entered
	all.Go(func() { // nobody waits for nobody
		if _, err := f.header(a, nil, "nobody"); err != nil {
			t.Error(err)
		}
	})
	if scope := <-entered; scope != "repository:nobody:pull" {
		t.Errorf("%s was asked for before the first came back", scope)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	ocitest.WantClass(t, a.Authorize(gone, f.pull("r9"), cred, "r9"), oci.ClientGone)
	if n := f.get(&f.tokenRequests); n != 2 {
		t.Errorf("%d token requests before the first came back", n)
	}
	goOn()
	all.Wait()
	if n := f.get(&f.tokenRequests); n != 6 && n != 7 { // r9's caller is gone, its request may be under way
		t.Errorf("%d token requests in all", n)
	}
}
