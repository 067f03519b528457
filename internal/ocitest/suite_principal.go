package ocitest

import (
	"net/http"
	"strings"
	"testing"

	"berth/oci"
)

// viewCases: as whom a Source asks is fixed, and different for different
// credentials.
func viewCases() []suiteCase {
	return []suiteCase{
		{"principal", testPrincipal},
		{"nobody asks as nobody", testNobody},
	}
}

func testPrincipal(t *testing.T, s Suite) {
	r, src := s.open(t, Options{Auth: Bearer, Private: true}, acme())
	d, data := addManifest(r, "v1")
	v := src.Principal("acme/app")
	if v.Shared() || v.Organisation != "acme" || v.Fingerprint == "" {
		t.Errorf("the principal of acme is %+v", v)
	}
	if strings.Contains(v.Fingerprint, passwordMark) {
		t.Error("the fingerprint tells the password")
	}
	mustRead(t, src, manifestOf(d), oci.Range{}, data)
	r.Inject(Match{}, 0, Status(http.StatusForbidden))
	_ = drain(within(t), src, blobOf(d)) // whatever it is: it must change nothing
	if again := src.Principal("acme/app"); again != v {
		t.Errorf("the principal changed from %+v to %+v", v, again)
	}
	other := acme()
	other.Password = passwordMark + "-new"
	globex := Caller{Organisation: "globex", User: acme().User, Password: acme().Password}
	for what, c := range map[string]Caller{"another password": other, "another organisation": globex, "nobody": nobody()} {
		if s.New(t, r, c).Principal("acme/app") == v {
			t.Errorf("%s has the same principal as acme", what)
		}
	}
	if n := s.New(t, r, nobody()).Principal("acme/app"); !n.Shared() || n.Fingerprint != "" {
		t.Errorf("the principal of nobody is %+v", n)
	}
}

func testNobody(t *testing.T, s Suite) {
	r, src := s.open(t, Options{Auth: Bearer}, nobody())
	r.AddUser(acme().User, acme().Password, "**")
	img := r.AddImage("acme/app", "v1", Image{Layers: []int64{5000}})
	pull(t, src, r, img)
	if n := r.Count(Match{Where: func(q Request) bool { return q.User != "" }}); n > 0 {
		t.Errorf("%d requests of nobody had a user", n)
	}
}
