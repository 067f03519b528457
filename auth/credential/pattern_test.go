package credential

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/oci"
)

func TestPatternMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		yes, no []string
	}{
		{"acme/app", []string{"acme/app"}, []string{"acme", "acme/app/x", "acme/ap", "acme/apps", "xacme/app", "x/acme/app"}},
		{"acme/*", []string{"acme/app", "acme/x"}, []string{"acme", "acme/a/b", "acmex/app", "other/app"}},
		{"acme/**", []string{"acme", "acme/app", "acme/a/b/c"}, []string{"acmex", "acmex/app", "x/acme"}},
		{"**", []string{"a", "a/b", "a/b/c"}, nil},
		{"*", []string{"a"}, []string{"a/b"}},
		{"*/*", []string{"a/b"}, []string{"a", "a/b/c"}},
		{"**/app", []string{"app", "a/app", "a/b/app"}, []string{"app/x", "a/apps"}},
		{"a/**/z", []string{"a/z", "a/b/z", "a/z/b/z", "a/b/c/z"}, []string{"a", "z", "a/b", "a/z/b"}},
		{"a/**/m/**/z", []string{"a/m/z", "a/b/m/z", "a/m/m/b/z"}, []string{"a/z", "a/b/z", "m/z"}},
		{"**/a/*", []string{"a/b", "a/a/b", "x/a/b", "a/a"}, []string{"a", "x/a", "a/b/c"}},
		{"*/**", []string{"a", "a/b"}, nil},
	} {
		p, err := ParsePattern(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, repo := range tc.yes {
			if !p.Match(repo) {
				t.Errorf("%s does not match %s", tc.pattern, repo)
			}
		}
		for _, repo := range append(tc.no, "") {
			if repo != "" && p.Match(repo) {
				t.Errorf("%s matches %s", tc.pattern, repo)
			}
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, s := range []string{"", "/", "acme/", "/acme", "a//b", "app-*", "acme/*x", "acme/***", "ACME/app", "a b", "acme/app:latest", "ghcr.io:443/x", "..", "a/../b", "a\nb", strings.Repeat("a/", 200) + "a"} {
		if p, err := ParsePattern(s); err == nil {
			t.Errorf("%q was taken as %v", s, p)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the error has several lines", s)
		}
	}
}

func TestPatternOrder(t *testing.T) {
	specific := []string{"a/b/c", "a/b", "a/b/*", "a/*/*", "a/*", "a", "a/**", "*/*", "*", "**/*", "**"}
	// a/b/* and a/b are equally literal; the rule for them is "more *", so:
	slices.SortStableFunc(specific, func(x, y string) int {
		a, _ := ParsePattern(x)
		b, _ := ParsePattern(y)
		switch {
		case a.rank.above(b.rank):
			return -1
		case b.rank.above(a.rank):
			return 1
		}
		return 0
	})
	want := []string{"a/b/c", "a/b/*", "a/b", "a/*/*", "a/*", "a", "a/**", "*/*", "*", "**/*", "**"}
	if !slices.Equal(specific, want) {
		t.Errorf("order %v, want %v", specific, want)
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range [][2]string{{"acme/**", "acme/app"}, {"a/**/b/**/c", "a/b/b/c/c"}, {"*/x", "a/x"}, {"**/**/a", "b/a/a"}, {"", ""}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, repo string) {
		p, err := ParsePattern(pattern)
		if err != nil || !oci.ValidName(repo) {
			return
		}
		if parsed := strings.Join(p.parts, "/"); parsed != pattern {
			t.Fatalf("%q became %q", pattern, parsed)
		}
		if len(p.parts) > 8 {
			return // the reference below backtracks
		}
		// ** as "(part/)*": so every part gets a slash behind it.
		var re strings.Builder
		for _, part := range p.parts {
			switch part {
			case "**":
				re.WriteString(`([^/]+/)*`)
			case "*":
				re.WriteString(`[^/]+/`)
			default:
				re.WriteString(regexp.QuoteMeta(part) + "/")
			}
		}
		if want := regexp.MustCompile("^" + re.String() + "$").MatchString(repo + "/"); p.Match(repo) != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, repo, !want, want)
		}
	})
}
