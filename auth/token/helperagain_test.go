package token

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/oci"

	"berth/auth/credential"
)

// A helper's answer that is refused may have expired: the helper is asked again, by
// the next look-up, and the account is not left alone. One that was given a moment
// ago is no good, and cools down like any other.
func TestHelperIsAskedAgain(t *testing.T) {
	f, c := newFakeRegistry(t, false), newClock()
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
	runs := helperProgram(t, "gcr", fmt.Sprintf(`echo "{\"Username\":\"oauth2accesstoken\",\"Secret\":\"$(cat %s)\"}"`, secret))
	entry := entryFor("acme", "gcp", "gcr.io")
	entry.Source = credential.HelperSource(credential.Helper{Name: "gcr", Server: "gcr.io", Now: c.now})
	table := mustCredentials(t, credential.TableOptions{Key: credential.NewKey(), Entries: []credential.Entry{entry}, Now: c.now})
	a := f.authority(Options{Now: c.now})
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
	c.advance(10 * time.Minute)
	write("two")
	good = "two"
	for range 2 { // the second was on its way with the first
		_, err = f.header(a, first, "acme/app")
		wantClass(t, err, oci.Unauthorized)
	}
	second, err := pull()
	if err != nil || second.Fingerprint != first.Fingerprint || len(runs()) != 2 {
		t.Errorf("the next one: %v, %v after %d runs", second, err, len(runs()))
	}

	c.advance(5 * time.Minute)
	good = "three"
	before := f.get(&f.tokenRequests)
	for range 5 {
		_, err = pull()
		wantClass(t, err, oci.Unauthorized)
		c.advance(5 * time.Second)
	}
	if n := f.get(&f.tokenRequests) - before; n != 2 || len(runs()) != 3 {
		t.Errorf("a helper that knows no better costs %d requests and %d runs", n, len(runs()))
	}
}
