package golden

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"

	"berth/internal/ocitest"
)

func TestMain(m *testing.M) {
	defer os.RemoveAll(programs)
	ocitest.Main(m)
}

var update = flag.Bool("update", false, "write the golden files anew")

const renew = "go test ./internal/golden -run Golden -update"

// hold compares text with testdata/NAME.golden; about is the first line of the file.
func hold(t *testing.T, name, about, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	want := "# " + about + "\n# To renew: " + renew + " (review the difference: others rely on what it says)\n\n" + strings.TrimRight(text, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(kept) != want {
		t.Errorf("this is relied upon and is not as %s says. If the change is meant: %s, and commit the file with the change.\n%s",
			path, renew, diff.Diff(path, kept, "now", []byte(want)))
	}
}

// show holds the document in doc/ to the same text: it stands there behind a line with
// the file's name. -update writes it.
func show(t *testing.T, document, name, text string) {
	t.Helper()
	path := filepath.Join("../../doc", document)
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := "<!-- " + name + ".golden -->\n```text\n"
	before, rest, ok := strings.Cut(string(page), head)
	shown, after, end := strings.Cut(rest, "```\n")
	if !ok || !end {
		t.Fatalf("%s has no %s", path, head)
	}
	if shown == text {
		return
	}
	if !*update {
		t.Errorf("%s shows other figures for %s: %s", path, name, renew)
		return
	}
	if err := os.WriteFile(path, []byte(before+head+text+"```\n"+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

// masks replace what is of one run only.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`127\.0\.0\.1[:_]\d+`), "HOST"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:DIGEST"},
	{regexp.MustCompile(`\[[a-z0-9]{5,16}\]`), "[ID]"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`), "TIME"},
}

func masked(s string) string {
	for _, m := range masks {
		s = m.what.ReplaceAllString(s, m.with)
	}
	return s
}
