package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"berth/bench/internal/source"
)

var (
	walkHeading = regexp.MustCompile(`(?m)^### The walk of (?:a|what is) (\w+)$`)
	walkRow     = regexp.MustCompile("(?m)^\\| `([\\w/]+)` \\| `([^`]+)` \\|")
)

// documented are the functions in the walks of doc/design.md, by what is pulled.
func documented(t *testing.T) map[string][][]string {
	t.Helper()
	page, err := os.ReadFile("../../doc/design.md")
	if err != nil {
		t.Fatal(err)
	}
	walks := map[string][][]string{}
	for _, m := range walkHeading.FindAllSubmatchIndex(page, -1) {
		section, _, _ := strings.Cut(string(page[m[1]:]), "\n#")
		walks[string(page[m[2]:m[3]])] = walkRow.FindAllStringSubmatch(section, -1)
	}
	return walks
}

// TestDocumentedWalk_IsOfThisProgram: each function that the documentation leads
// through is in the source, and with BERTH_LONG a cold pull runs through it.
func TestDocumentedWalk_IsOfThisProgram(t *testing.T) {
	t.Parallel()
	packages, err := source.Load(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, p := range packages {
		for _, f := range p.Files {
			for _, one := range f.Functions {
				has[p.Path+" "+one.Name] = true
			}
		}
	}
	walks := documented(t)
	for _, what := range []string{"manifest", "blob", "kept"} {
		if len(walks[what]) < 10 {
			t.Errorf("the walk of %s has %d functions", what, len(walks[what]))
		}
		for _, row := range walks[what] {
			if !has[row[1]+" "+row[2]] {
				t.Errorf("the walk of %s goes through %s of %s, which is not there", what, row[2], row[1])
			}
		}
	}
	if os.Getenv("BERTH_LONG") == "" {
		return
	}
	measured, err := measure(t.Context(), subject{module: "../..", program: "./cmd/berth", command: berth}, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range measured.walks {
		what, cold := strings.CutSuffix(k.name, ", cold")
		if !cold {
			continue
		}
		called := map[string]bool{}
		for f := range k.calls {
			called[f.pkg+" "+f.Name] = true
		}
		what, _, _ = strings.Cut(what, " ")
		for _, row := range walks[what] {
			if !called[row[1]+" "+row[2]] {
				t.Errorf("the walk of a %s does not go through %s of %s", what, row[2], row[1])
			}
		}
	}
}
