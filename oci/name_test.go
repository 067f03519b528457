package oci_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"pgregory.net/rapid"

	"berth/oci"
)

var (
	nameGrammar = regexp.MustCompile(`^(?:` + reference.NameRegexp.String() + `)$`)
	tagGrammar  = regexp.MustCompile(`^(?:` + reference.TagRegexp.String() + `)$`)
)

// referenceName is the grammar of names as everybody else reads it. The domain
// in front keeps the expression from taking the first component for one.
func referenceName(s string) bool {
	return nameGrammar.MatchString("x.example/"+s) &&
		len(s) <= reference.RepositoryNameTotalLengthMax
}

func referenceTag(s string) bool {
	return tagGrammar.MatchString(s)
}

func TestValidName(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "library/nginx": true, "a.b_c__d-e---f/0": true, "v2": true, strings.Repeat("a", 255): true,
		"": false, "/": false, "a/": false, "/a": false, "a//b": false, "A": false, "a.": false, ".a": false, "a..b": false, "a___b": false,
		"a_.b": false, "a._b": false, "a-_b": false, "-": false, "a-": false, "a\n": false, "a:b": false, "ä": false, "..": false, strings.Repeat("a", 256): false,
	} {
		if got := oci.ValidName(s); got != want {
			t.Errorf("ValidName(%.20q) = %v", s, got)
		}
		if got := referenceName(s); got != want {
			t.Errorf("the reference grammar says %v of %.20q", got, s)
		}
	}
}

func TestValidNameAgreesWithTheReferenceGrammar(t *testing.T) {
	near := rapid.StringOfN(rapid.SampledFrom([]rune("ab0z9._-/A:é ")), 0, 300, -1)
	good := rapid.StringMatching(`[a-z0-9]{1,3}(?:(?:\.|_|__|-{1,4})[a-z0-9]{1,3}){0,4}(?:/[a-z0-9]{1,3}(?:(?:\.|_|__|-{1,4})[a-z0-9]{1,3}){0,4}){0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		for _, s := range []string{near.Draw(t, "near"), good.Draw(t, "good")} {
			if got, want := oci.ValidName(s), referenceName(s); got != want {
				t.Fatalf("ValidName(%q) = %v, the reference grammar says %v", s, got, want)
			}
		}
	})
}

func FuzzValidName(f *testing.F) {
	for _, s := range []string{"a/b", "a__b", "a___b", "a--b", "a.-b", "a/", "", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := oci.ValidName(s), referenceName(s); got != want {
			t.Fatalf("ValidName(%q) = %v, the reference grammar says %v", s, got, want)
		}
	})
}

func TestValidTag(t *testing.T) {
	for s, want := range map[string]bool{
		"latest": true, "V1.0-rc_1": true, "_": true, "0": true, strings.Repeat("x", 128): true,
		"": false, ".a": false, "-a": false, "a/b": false, "a:b": false, "a+b": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("x", 129): false,
	} {
		if got := oci.ValidTag(s); got != want {
			t.Errorf("ValidTag(%.20q) = %v", s, got)
		}
	}
	near := rapid.StringOfN(rapid.SampledFrom([]rune("aZ09._-/:+é\n")), 0, 140, -1)
	rapid.Check(t, func(t *rapid.T) {
		s := near.Draw(t, "tag")
		if got, want := oci.ValidTag(s), referenceTag(s); got != want {
			t.Fatalf("ValidTag(%q) = %v, the reference grammar says %v", s, got, want)
		}
	})
}

func FuzzValidTag(f *testing.F) {
	for _, s := range []string{"latest", "-", "_a", "", "a\n", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := oci.ValidTag(s), referenceTag(s); got != want {
			t.Fatalf("ValidTag(%q) = %v, the reference grammar says %v", s, got, want)
		}
	})
}
