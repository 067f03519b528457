package oci_test

import (
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"berth/oci"
)

func TestOriginURL(t *testing.T) {
	if got := (oci.Origin{Scheme: "https", Host: "reg.test:5443"}).URL(); got != "https://reg.test:5443" {
		t.Error(got)
	}
}

// Opening a path is the check that bytes came from this origin, so two origins
// must never have one folder.
func TestOriginDirIsUnique(t *testing.T) {
	origins := []oci.Origin{
		{Scheme: "https", Host: "reg.test"}, {Scheme: "http", Host: "reg.test"}, {Owner: "acme", Scheme: "https", Host: "reg.test"},
		{Owner: "acm", Scheme: "https", Host: "ereg.test"}, {Owner: "acmehttps", Scheme: "", Host: "reg.test"}, {Scheme: "https", Host: "reg.test:5000"},
		{Scheme: "https", Host: "reg.test_5000"}, {Scheme: "https", Host: "REG.TEST"}, {Scheme: "https", Host: "[::1]:5000"}, {Scheme: "https", Host: "[::2]:5000"},
		{Scheme: "https", Host: strings.Repeat("a", 200) + "1"}, {Scheme: "https", Host: strings.Repeat("a", 200) + "2"}, {},
	}
	seen := map[string]oci.Origin{}
	for _, o := range origins {
		d := o.Dir()
		if other, ok := seen[d]; ok {
			t.Errorf("%+v and %+v share %s", o, other, d)
		}
		seen[d] = o
		if len(d) > 200 {
			t.Errorf("%s is too long for a file name", d)
		}
		if i := strings.LastIndexByte(d, '-'); len(d)-i-1 < 32 {
			t.Errorf("%s tells origins apart by %d hex digits: an organisation that may choose its name could search a second one", d, len(d)-i-1)
		}
	}
	if d := origins[0].Dir(); !strings.HasPrefix(d, "reg.test-") {
		t.Errorf("%s is not readable", d)
	}
	name := rapid.OneOf(rapid.String(), rapid.StringN(0, 300, 600), rapid.SampledFrom([]string{"", "..", "/", "a/b", "\x00", "-"}))
	rapid.Check(t, func(t *rapid.T) {
		a := oci.Origin{Owner: name.Draw(t, "owner"), Scheme: name.Draw(t, "scheme"), Host: name.Draw(t, "host")}
		d := a.Dir()
		if len(d) > 200 || filepath.Base(d) != d || strings.ToLower(d) != d || d[0] == '.' && d == ".." {
			t.Fatalf("%+v has the folder %q", a, d)
		}
		b := oci.Origin{Owner: name.Draw(t, "owner"), Scheme: name.Draw(t, "scheme"), Host: name.Draw(t, "host")}
		if (a == b) != (d == b.Dir()) {
			t.Fatalf("%+v and %+v: %s, %s", a, b, d, b.Dir())
		}
	})
}

func TestViewShared(t *testing.T) {
	for v, want := range map[oci.Principal]bool{{}: true, {Fingerprint: "f"}: true, {Organisation: "acme"}: false, {Organisation: "acme", Fingerprint: "f"}: false} {
		if v.Shared() != want {
			t.Errorf("%+v: %v", v, v.Shared())
		}
	}
}

func TestRangeBounded(t *testing.T) {
	for r, want := range map[oci.Range]bool{
		{}: false, {Start: 5}: false, {Start: 5, Length: 1}: true, {Length: 1}: true, {Start: -5}: true, {Sparse: true}: true,
	} {
		if r.Bounded() != want {
			t.Errorf("%+v: %v", r, r.Bounded())
		}
	}
}

func TestKindString(t *testing.T) {
	if oci.Manifest.String() != "manifest" || oci.Blob.String() != "blob" || oci.Kind(0).String() != "none" {
		t.Error(oci.Manifest, oci.Blob, oci.Kind(0))
	}
}
