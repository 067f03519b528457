package token

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
)

// A helper's answer that is refused may have expired: the helper is asked again, by
// the next look-up, and the account is not left alone. One that was given a moment
// ago is no good, and cools down like any other.
func TestHelperIsAskedAgain(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	good := "one"
	f.token = func(w http.ResponseWriter, _ *http.Request, user, password string) {
		if password != good {
			refuse(w, 401, "UNAUTHORIZED", "expired")
			return
		}
		f.grant(w, user, 60)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runs := ocitest.CredentialHelper(t, "gcr", fmt.Sprintf(`echo "{\"Username\":\"oauth2accesstoken\",\"Secret\":\"$(cat %s)\"}"`, secret))
	entry := entryFor("acme", "gcp", "gcr.io")
	entry.Source = credential.HelperSource(credential.Helper{Name: "gcr", Server: "gcr.io", Now: c.Now})
	table := mustCredentials(t, credential.TableOptions{Key: credential.NewKey(), Entries: []credential.Entry{entry}, Now: c.Now})
	a := f.authority(Options{Now: c.Now})
	pull := func() (*credential.Credential, error) {
		t.Helper()
		cred, err := table.Lookup(t.Context(), "acme", "", "gcr.io", "acme/app")
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.header(a, cred, "acme/app")
		return cred, err
	}

	write("one")
	first, err := pull()
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(10 * time.Minute)
	write("two")
	good = "two"
	for range 2 { // the second was on its way with the first
		_, err = f.header(a, first, "acme/app")
		ocitest.WantClass(t, err, oci.Unauthorized)
	}
	second, err := pull()
	if err != nil || second.Fingerprint != first.Fingerprint || len(runs()) != 2 {
		t.Errorf("the next one: %v, %v after %d runs", second, err, len(runs()))
	}

	c.Advance(5 * time.Minute)
	good = "three"
	before := f.get(&f.tokenRequests)
	for range 5 {
		_, err = pull()
		ocitest.WantClass(t, err, oci.Unauthorized)
		c.Advance(5 * time.Second)
	}
	if n := f.get(&f.tokenRequests) - before; n != 2*2 || len(runs()) != 3 {
		t.Errorf("a helper that knows no better costs %d requests and %d runs", n, len(runs()))
	}
}

// What is held against one secret of a helper is not held against the next one, nor are
// tokens that were given for it used for that: rights are the entry's, and these are the
// secret's.
func TestClient_TellsVersionsOfASecretApart(t *testing.T) {
	f, c := newFakeRegistry(t, false), ocitest.NewClock()
	f.token = func(w http.ResponseWriter, _ *http.Request, user, password string) {
		if password == "wrong" {
			refuse(w, 401, "UNAUTHORIZED", "expired")
			return
		}
		f.grant(w, user, 3600)
	}
	a := f.authority(Options{Now: c.Now})
	wrong, good, next := testAccount("acme", "ci", "bot", "wrong"), testAccount("acme", "ci", "bot", "good"), testAccount("acme", "ci", "bot", "next")
	good.Fingerprint, next.Fingerprint = wrong.Fingerprint, wrong.Fingerprint
	_, err := f.header(a, wrong, "acme/app")
	ocitest.WantClass(t, err, oci.Unauthorized)
	if a.Refusal(wrong) == nil || a.Refusal(good) != nil {
		t.Errorf("held against the one: %v, the other: %v", a.Refusal(wrong), a.Refusal(good))
	}
	for i, cred := range []*credential.Credential{good, good, next} {
		before := f.get(&f.tokenRequests)
		if _, err := f.header(a, cred, "acme/app"); err != nil {
			t.Error(err)
		}
		if n, want := f.get(&f.tokenRequests)-before, []int{1, 0, 1}[i]; n != want {
			t.Errorf("%d: %d token requests, want %d", i, n, want)
		}
	}
}
