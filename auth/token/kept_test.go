package token

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"berth/oci"

	"berth/internal/ocitest"
)

// However long the tokens are that the registries of an organisation give, and however
// many it brings, what is kept of them is bounded in bytes, and nobody else's goes.
func TestKept_BoundedInBytes(t *testing.T) {
	kept := NewKept()
	f := newFakeRegistry(t, false)
	others := f.authority(Options{Kept: kept})
	want, err := f.header(others, nil, "library/app")
	if err != nil {
		t.Fatal(err)
	}
	long := newFakeRegistry(t, false)
	long.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) {
		fmt.Fprintf(w, `{"token":%q,"expires_in":86400}`, strings.Repeat("t", maxToken))
	}
	for range 6 {
		a, err := New(Options{Origin: ownedBy(long.origin(), "globex"), Registry: "own.test", Transport: classified{long.Client().Transport}, Kept: kept})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		for i := range 100 { // without an account too: it is the registry that is its own
			if _, err := long.header(a, nil, fmt.Sprint("x", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var size int
	for _, token := range kept.tokens.All() {
		size += len(token.text.Reveal())
	}
	if size > keptTokens {
		t.Errorf("%d bytes of tokens are kept", size)
	}
	if got, err := f.header(others, nil, "library/app"); err != nil || got != want {
		t.Errorf("another's token was pushed out: %q, %v; it was %q", got, err, want)
	}
}

func ownedBy(o oci.Origin, owner string) oci.Origin {
	o.Owner = owner
	return o
}

// Nothing is kept of a registry that is gone.
func TestKept_OfARegistryThatIsGone(t *testing.T) {
	kept := NewKept()
	f := newFakeRegistry(t, false)
	a := f.authority(Options{Kept: kept})
	if _, err := f.header(a, nil, "acme/app"); err != nil {
		t.Fatal(err)
	}
	header := http.Header{"Www-Authenticate": {fmt.Sprintf(`Bearer realm="%s/token",service="other"`, f.URL)}}
	if !a.Challenged(header, "acme", "acme/app") || len(kept.challenges.All()) != 1 || len(kept.tokens.All()) != 1 {
		t.Fatal("nothing was kept")
	}
	a.Close()
	if c, n := len(kept.challenges.All()), len(kept.tokens.All()); c+n != 0 {
		t.Errorf("%d challenges and %d tokens are kept", c, n)
	}
}

// A challenge keeps no more of an answer than a service and a realm have.
func TestKept_LongChallenge(t *testing.T) {
	f := newFakeRegistry(t, false)
	long := strings.Repeat("s", 55000)
	a := f.authority(Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Body: http.NoBody, Request: r}
		resp.Header.Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service=%s`, f.URL, long))
		return resp, nil
	})})
	_, err := f.header(a, testAccount("acme", "ci", "bot", "pw"), "acme/app")
	if e := ocitest.AsClass(t, err, oci.UpstreamError); !strings.Contains(e.Message, "service of more than 256 bytes") {
		t.Errorf("%s", e.Message)
	}
	for _, service := range []string{long, `"` + long + `"`} {
		header := http.Header{"Www-Authenticate": {fmt.Sprintf(`Bearer realm="%s/token",service=%s`, f.URL, service)}}
		if a.Challenged(header, "acme", "acme/app") {
			t.Error("a service of 55,000 bytes was learned")
		}
	}
	if c := parse(`Bearer realm="https://registry.test/` + long + `",service="x"`); len(c.Realm) > maxRealm+1 {
		t.Errorf("a realm of %d bytes is kept", len(c.Realm))
	}
}
