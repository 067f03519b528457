package dialect_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/internal/ocitest/zoo"
	"berth/upstream/dialect"
)

var update = flag.Bool("update", false, "write the tables of doc/registries.md")

const (
	document = "../../doc/registries.md"
	begin    = "<!-- the tables begin -->\n"
	end      = "<!-- the tables end -->"
)

// markdown is the table as doc/registries.md has it.
func markdown() string {
	var b strings.Builder
	b.WriteString("| registry | `type` | sign-in | lists of tags | referrers | limits |\n|---|---|---|---|---|---|\n")
	all := append(dialect.Table(), dialect.Other())
	for _, d := range all {
		name := d.Name
		if d.Host != "" {
			name += " (`" + d.Host + "`)"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s | %s |\n", name, d.Type, d.SignIn, d.Tags, d.Referrers, d.Limits)
	}
	b.WriteString("\n| registry | in its own way | said in | shown by |\n|---|---|---|---|\n")
	for _, d := range all {
		for _, w := range d.Ways {
			fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", d.Name, w.What, w.Source, w.Test)
		}
	}
	return b.String()
}

// What users read is what is known here.
func TestDialect_DocumentHasTheTables(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the tables", document)
	}
	if *update {
		if err := os.WriteFile(document, []byte(before+begin+markdown()+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != markdown() {
		t.Errorf("%s says something else than the table: go test ./upstream/dialect -update writes it", document)
	}
	for _, d := range dialect.Table() {
		if d.Account != "none" && !strings.Contains(string(text), d.Account) {
			t.Errorf("%s does not say how to get a token at %s: %s", document, d.Name, d.Account)
		}
	}
}

// Every row names its source, and a test that there is.
func TestDialect_EachWayHasASourceAndATest(t *testing.T) {
	files, err := filepath.Glob("../*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	tests := map[string]bool{}
	named := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
	}
	for _, d := range append(dialect.Table(), dialect.Other()) {
		if _, ok := dialect.TypeNamed(d.Type); !ok {
			t.Errorf("%s: there is no type %q", d.Name, d.Type)
		}
		if len(d.Ways) == 0 || d.SignIn == "" || d.Tags == "" || d.Referrers == "" || d.Limits == "" || d.Account == "" {
			t.Errorf("%s: something is missing", d.Name)
		}
		for _, w := range d.Ways {
			if !tests[w.Test] || w.What == "" || w.Source == "" {
				t.Errorf("%s: %+v: no such test, or no source", d.Name, w)
			}
		}
	}
}

// Each has a stand-in that the suite tries, of the same type.
func TestDialect_EachHasAStandIn(t *testing.T) {
	all := zoo.StandIns()
	for _, d := range dialect.Table() {
		i := slices.IndexFunc(all, func(s zoo.StandIn) bool { return s.Name == d.Name })
		if i < 0 {
			t.Errorf("%s has none", d.Name)
			continue
		}
		s := all[i]
		want, _ := dialect.TypeNamed(d.Type)
		if got, _ := dialect.TypeNamed(s.Type); got.Name != want.Name {
			t.Errorf("%s is of type %q, its stand-in of %q", d.Name, d.Type, s.Type)
		}
		if none := strings.HasPrefix(d.Referrers, "no:"); s.Fallback != none && !strings.Contains(d.Referrers, "else the fallback tag") {
			t.Errorf("%s: referrers are %q, and its stand-in has none: %v", d.Name, d.Referrers, s.Fallback)
		}
		if given := d.Tags == "yes" || s.MaxPage > 0; given != (s.NoTags == 0) || s.MaxPage > 0 && !strings.Contains(d.Tags, strconv.Itoa(s.MaxPage)) {
			t.Errorf("%s: lists are %q, and its stand-in refuses them as %s, with pages of %d", d.Name, d.Tags, s.NoTags, s.MaxPage)
		}
		if basic := strings.HasPrefix(d.SignIn, "Basic"); basic != (s.Options.Auth == ocitest.Basic) {
			t.Errorf("%s: the sign-in is %q, and its stand-in has %d", d.Name, d.SignIn, s.Options.Auth)
		}
		if elsewhere := strings.Contains(d.SignIn, "tokens of") && !strings.Contains(d.SignIn, "its own host"); elsewhere != s.Options.TokenServer {
			t.Errorf("%s: the sign-in is %q, and its stand-in has a server for tokens: %v", d.Name, d.SignIn, s.Options.TokenServer)
		}
	}
	if len(all) != len(dialect.Table()) {
		t.Errorf("%d stand-ins for %d kinds", len(all), len(dialect.Table()))
	}
}

func TestDialect_For(t *testing.T) {
	for _, test := range []struct{ registry, typeName, want string }{
		{"docker.io", "", "Docker Hub"}, {"index.docker.io", "", "Docker Hub"}, {"ghcr.io", "generic", "GitHub (GHCR)"}, {"quay.io", "", "Quay"},
		{"mirror.example", "dockerhub", "Docker Hub"}, {"ghe.example", "ghcr", "GitHub (GHCR)"}, {"registry.gitlab.com", "", "GitLab"},
		{"reg.example", "", "any other"}, {"reg.example", "generic", "any other"}, {"", "", "any other"}, {"xghcr.io", "", "any other"},
	} {
		if got := dialect.For(test.registry, test.typeName).Name; got != test.want {
			t.Errorf("%q, %q: %s, want %s", test.registry, test.typeName, got, test.want)
		}
	}
}
