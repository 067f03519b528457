package isolation_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	row   = regexp.MustCompile(`(?m)^\| (S\d+) \| .* \| (.*) \|$`)
	named = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)\\w+)`")
)

// TestSecurityPage holds doc/security.md to what it says: each property is there,
// and each test that is said to prove one exists.
func TestSecurityPage(t *testing.T) {
	t.Parallel()
	const root = "../.."
	page, err := os.ReadFile(filepath.Join(root, "doc/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	proofs := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		proofs[m[1]] = m[2]
	}
	for i := 1; i <= 29; i++ {
		s := fmt.Sprintf("S%d", i)
		tests := named.FindAllStringSubmatch(proofs[s], -1)
		if len(tests) == 0 && proofs[s] != "not promised" {
			t.Errorf("%s is proven by nothing", s)
		}
		for _, name := range tests {
			if !declares(t, filepath.Join(root, name[1]), name[2]) {
				t.Errorf("%s: there is no %s in %s", s, name[2], name[1])
			}
		}
	}
}

// declares says whether a test file in dir has the function.
func declares(t *testing.T, dir, function string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+function+"(") {
			return true
		}
	}
	return false
}
