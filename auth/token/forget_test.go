package token

import (
	"net/http"
	"sync"
	"testing"

	"berth/auth/credential"
)

func TestForget(t *testing.T) {
	f := newFakeRegistry(t, false)
	a := f.authority(Options{})
	acme, globex := testAccount("acme", "ci", "bot", "pw"), testAccount("globex", "ci", "other", "pw")
	header := func(cred *credential.Credential, want string) {
		t.Helper()
		if got, err := f.header(a, cred, "acme/app"); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	header(acme, "Bearer bot-1")
	header(globex, "Bearer other-2")
	header(nil, "Bearer -3")
	a.Forget("acme")
	header(globex, "Bearer other-2")
	header(nil, "Bearer -3")
	header(acme, "Bearer bot-4")
	header(acme, "Bearer bot-4")
}

// A token that was asked for before is used once, and not kept.
func TestForgetWhileATokenIsAskedFor(t *testing.T) {
	f := newFakeRegistry(t, false)
	asked, answer := make(chan struct{}), make(chan struct{})
	f.token = func(w http.ResponseWriter, _ *http.Request, user, _ string) {
		asked <- struct{}{}
		<-answer
		f.grant(w, user, 300)
	}
	a := f.authority(Options{})
	acme := testAccount("acme", "ci", "bot", "pw")
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := f.header(a, acme, "acme/app"); err != nil || got != "Bearer bot-1" {
			t.Errorf("%q, %v", got, err)
		}
	})
	<-asked
	a.Forget("acme")
	close(answer)
	wg.Wait()
	f.be(func() { f.token = nil })
	if got, err := f.header(a, acme, "acme/app"); err != nil || got != "Bearer bot-2" {
		t.Errorf("afterwards %q, %v", got, err)
	}
}
