package oci_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"

	"berth/oci"
)

func TestParseDigest(t *testing.T) {
	for s, want := range map[string]bool{
		sha: true, "sha512:" + hex128: true,
		"": false, ":": false, hex64: false, "sha256:": false, "sha256": false, "sha256:" + hex64[1:]: false, "sha256:" + hex64 + "0": false,
		"sha256:" + strings.ToUpper(hex64): false, "SHA256:" + hex64: false, "sha256:" + hex64[1:] + "g": false, "sha512:" + hex64: false,
		"sha384:" + hex64 + hex64[:32]: false, "md5:d41d8cd98f00b204e9800998ecf8427e": false, "sha256:sha256:" + hex64: false,
		" " + sha: false, sha + "\n": false, "sha256+b64:" + hex64: false, "sha256:../../../../etc/passwd": false,
	} {
		d, err := oci.ParseDigest(s)
		if (err == nil) != want {
			t.Errorf("ParseDigest(%q) = %q, %v", s, d, err)
		}
		if err == nil && d.String() != s || err != nil && d != "" {
			t.Errorf("ParseDigest(%q) = %q", s, d)
		}
	}
	if _, err := oci.ParseDigest(strings.Repeat("x", 1<<16)); err == nil || len(err.Error()) > 300 {
		t.Errorf("the error about a long digest has %d bytes", len(err.Error()))
	}
}

func TestDigestOf(t *testing.T) {
	if d := oci.DigestOf(nil); d != sha {
		t.Errorf("the digest of nothing is %s", d)
	}
}

// A Digest is used as a file name, and one content has one name.
func FuzzParseDigest(f *testing.F) {
	f.Add(sha)
	f.Add("sha512:" + hex128)
	f.Add("sha256:../x")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := oci.ParseDigest(s)
		if err != nil {
			return
		}
		if d.String() != s || strings.ToLower(s) != s || filepath.Base(d.Encoded()) != d.Encoded() || reference.DigestRegexp.FindString(s) != s {
			t.Fatalf("ParseDigest(%q) = %q", s, d)
		}
	})
}
