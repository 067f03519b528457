package oci

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestImagePattern_Selects(t *testing.T) {
	for _, tc := range []struct {
		pattern  string
		yes, no  []string // names
		tag      []string
		otherTag []string
	}{
		{"docker.io/library/nginx", []string{"docker.io/library/nginx"}, []string{"docker.io/library/nginx/x", "docker.io/nginx", "ghcr.io/library/nginx"}, []string{"1", "latest"}, nil},
		{"docker.io/library/**", []string{"docker.io/library", "docker.io/library/nginx", "docker.io/library/a/b"}, []string{"docker.io/libraryx/nginx"}, nil, nil},
		{"**", []string{"a.io/b", "a.io/b/c"}, nil, nil, nil},
		{"**:latest", []string{"a.io/b", "a.io/b/c"}, nil, []string{"latest"}, []string{"latest2", "1"}},
		{"ghcr.io/acme/app-*:1.*", []string{"ghcr.io/acme/app-", "ghcr.io/acme/app-x"}, []string{"ghcr.io/acme/app", "ghcr.io/acme/app-x/y"}, []string{"1.", "1.27.3"}, []string{"1", "11", "2.1."}},
		{"reg.acme.com:5443/app:v*-alpine", []string{"reg.acme.com:5443/app"}, []string{"reg.acme.com/app"}, []string{"v-alpine", "v1-alpine-alpine"}, []string{"v1-alpine3"}},
		{"*/team/**/app", []string{"a.io/team/app", "b.io/team/x/y/app"}, []string{"a.io/x/team/app"}, nil, nil},
	} {
		p, err := ParseImagePattern(tc.pattern)
		if err != nil {
			t.Fatalf("%s: %v", tc.pattern, err)
		}
		for _, name := range tc.yes {
			if !p.MatchName(name) {
				t.Errorf("%s does not select %s", tc.pattern, name)
			}
		}
		for _, name := range tc.no {
			if p.MatchName(name) {
				t.Errorf("%s selects %s", tc.pattern, name)
			}
		}
		for _, tag := range tc.tag {
			if !p.MatchTag(tag) {
				t.Errorf("%s does not select tag %s", tc.pattern, tag)
			}
		}
		for _, tag := range tc.otherTag {
			if p.MatchTag(tag) {
				t.Errorf("%s selects tag %s", tc.pattern, tag)
			}
		}
	}
}

func TestImagePattern_Refuses(t *testing.T) {
	for _, s := range []string{
		"", "nginx", "nginx:1", "*", "docker.io/", "/nginx", "docker.io//nginx", "docker.io/Nginx", "docker.io/nginx:", "docker.io/nginx:a b",
		"docker.io/nginx@sha256:" + strings.Repeat("0", 64), "docker.io/app**", "docker.io/a\nb", "https://docker.io/nginx", "docker.io/" + strings.Repeat("a", maxPattern),
	} {
		if p, err := ParseImagePattern(s); err == nil {
			t.Errorf("%q was taken as %s", s, p)
		} else if strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("the error about %q has a second line", s)
		}
	}
}

func TestImagePattern_KnowsDockerHubsNames(t *testing.T) {
	for pattern, name := range map[string]string{
		"docker.io/nginx": "docker.io/library/nginx", "docker.io/*": "docker.io/library/redis", "docker.io/**": "docker.io/acme/app", "docker.io/acme/app": "docker.io/acme/app",
	} {
		p, err := ParseImagePattern(pattern)
		if err != nil || !p.At(DockerHub).MatchName(name) {
			t.Errorf("%s does not select %s (%v)", pattern, name, err)
		}
	}
}

// A pattern is compared with the regular expression that it stands for.
func TestImagePattern_IsItsRegularExpression(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[ab*]{1,4}`).Filter(func(s string) bool { return s == "**" || !strings.Contains(s, "**") })
		parts := rapid.SliceOfN(part, 2, 5).Draw(t, "pattern")
		name := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{1,4}`), 1, 6).Draw(t, "name"), "/")
		p, err := ParseImagePattern(strings.Join(parts, "/"))
		if err != nil {
			t.Fatal(err)
		}
		expr := ""
		for _, part := range parts {
			if part == "**" {
				expr += "(/[^/]+)*"
			} else {
				expr += "/" + strings.ReplaceAll(part, "*", "[^/]*")
			}
		}
		if want := regexp.MustCompile("^" + expr + "$").MatchString("/" + name); p.MatchName(name) != want {
			t.Fatalf("%s selects %s: %v, want %v", p, name, !want, want)
		}
	})
}
