package golden

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The keys of the configuration, from its reference in the documents, which a test of
// internal/config holds to the types that are read.
func TestGolden_ConfigurationKeys(t *testing.T) {
	text, err := os.ReadFile("../../doc/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reference, ok := strings.Cut(string(text), "\n## Reference\n")
	if !ok {
		t.Fatal("the documents have no reference")
	}
	heads := regexp.MustCompile("(?m)^(?:### `([^`]+)`|- \\*\\*`([^`]+)`\\*\\* \\(([^)]+)\\) *|  `([^`]+)` has the keys of `([^`]+)`\\.)$")
	std := regexp.MustCompile(`Default: [^.]*(?:\.\S[^.]*)*\.`)
	required := regexp.MustCompile(`Required[^.]*\.`)
	var b strings.Builder
	all := heads.FindAllStringSubmatchIndex(reference, -1)
	part := func(m []int, i int) string {
		if m[2*i] < 0 {
			return ""
		}
		return reference[m[2*i]:m[2*i+1]]
	}
	for i, m := range all {
		end := len(reference)
		if i+1 < len(all) {
			end = all[i+1][0]
		}
		comment := strings.Join(strings.Fields(reference[m[1]:end]), " ")
		says := cmp.Or(std.FindString(comment), required.FindString(comment), "No default.")
		if strings.Contains(comment, "Needs a restart.") {
			says += " Needs a restart."
		}
		switch {
		case part(m, 1) != "":
			fmt.Fprintf(&b, "%s\n    %s\n", part(m, 1), says)
		case part(m, 2) != "":
			fmt.Fprintf(&b, "%s: %s\n    %s\n", part(m, 2), part(m, 3), says)
		default:
			fmt.Fprintf(&b, "%s\n    has the keys of %s\n", part(m, 4), part(m, 5))
		}
	}
	if len(all) < 40 {
		t.Fatalf("only %d keys were found", len(all))
	}
	hold(t, "configuration", "Keys of the configuration, their types and defaults.", b.String())
}

// Every key of the example, with the settings that are comments, is one that the
// program knows: so the reference is not only a document.
func TestGolden_ConfigurationIsTaken(t *testing.T) {
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A # that no single space follows takes a setting out.
	all := regexp.MustCompile(`(?m)^( *)#([^ #]| {2})`).ReplaceAll(text, []byte("$1$2"))
	file := filepath.Join(t.TempDir(), "berth.yaml")
	write(t, file, string(all))
	_, out, _ := command(t, nil, "check", "--json", file)
	if strings.Contains(out, "unknown key") || !strings.Contains(out, `"errors"`) {
		t.Errorf("berth check of all settings: %s", out)
	}
	write(t, file, string(all)+"nonsense: 1\n")
	if _, out, _ := command(t, nil, "check", "--json", file); !strings.Contains(out, "unknown key") {
		t.Errorf("berth check of a key that there is not: %s", out)
	}
}
