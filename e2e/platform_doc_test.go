package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

// The document's tables are held to the tests, here and in the files beside it
// that need real clients.

// tableBelow reads the first table below a heading of doc/platform.md, without
// its head.
func tableBelow(t *testing.T, heading string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(platformDocument(t), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no %q", heading)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		line, in := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if !in && len(rows) > 0 && !strings.HasPrefix(line, "|-") {
			break
		}
		if in {
			rows = append(rows, strings.Split(strings.TrimSuffix(line, " |"), " | "))
		}
	}
	if len(rows) < 2 {
		t.Fatalf("there is no table below %q", heading)
	}
	for _, row := range rows {
		if len(row) != len(rows[0]) {
			t.Errorf("the row %q has %d columns, not %d", row[0], len(row), len(rows[0]))
		}
	}
	return rows[1:] // the line of dashes begins with "|-"
}

func platformDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../doc/platform.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is the fenced block of doc/platform.md that begins with a line, or
// comes below a comment.
func block(t *testing.T, beginning string) string {
	t.Helper()
	text := platformDocument(t)
	if _, below, ok := strings.Cut(text, "<!-- e2e: "+beginning+" -->\n```"); ok {
		_, below, _ = strings.Cut(below, "\n")
		body, _, _ := strings.Cut(below, "```")
		return body
	}
	if _, below, ok := strings.Cut(text, "```yaml\n"+beginning+"\n"); ok {
		body, _, _ := strings.Cut(below, "```")
		return body
	}
	t.Fatalf("there is no block %q", beginning)
	return ""
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// codeSpans are the pieces of a cell between backticks.
func codeSpans(cell string) []string {
	var all []string
	for _, m := range codeSpan.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	return all
}

// Every client in the table was tried as two organisations by the test that its
// row names, or the row says that it was not.
func TestPlatformClientsAreTried(t *testing.T) {
	there := clientTests(t)
	var named []string
	for _, row := range tableBelow(t, "## Clients") {
		tests := regexp.MustCompile(`TestPlatform\w+`).FindAllString(row[0], -1)
		if len(tests) == 0 && !strings.Contains(row[0], "not run here: ") {
			t.Errorf("%q names no test, and does not say that it was not run here", row[0])
		}
		for _, test := range tests {
			if !slices.Contains(there, test) {
				t.Errorf("%q names %s, which is not there", row[0], test)
			}
		}
		named = append(named, tests...)
	}
	for _, test := range there {
		if !slices.Contains(named, test) {
			t.Errorf("no client is said to be tried by %s", test)
		}
	}
}

// clientTests are those in files that need clients, but for what is about the
// document as a whole.
func clientTests(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("platform_*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		switch file {
		case "platform_doc_test.go", "platform_errors_test.go", "platform_delivery_test.go":
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "TestPlatform") {
				all = append(all, f.Name.Name)
			}
		}
	}
	return all
}

// The header is the JSON above it, in the alphabet that Docker reads.
func TestPlatformHeader(t *testing.T) {
	text, err := base64.URLEncoding.DecodeString(strings.TrimSpace(block(t, "auth header")))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(block(t, "auth json")); string(text) != want {
		t.Errorf("the header says %s, and the JSON %s", text, want)
	}
	var login struct{ Username, Password, ServerAddress string }
	if err := json.Unmarshal(text, &login); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(login.Password))
	if dropIn := block(t, "# organisations.d/acme.yaml"); !strings.Contains(dropIn, hex.EncodeToString(sum[:])) {
		t.Errorf("the drop-in has no token %s", login.Password)
	}
}

// The names in the table are what the rule makes of them.
func TestPlatformNames(t *testing.T) {
	for _, row := range tableBelow(t, "## Names") {
		written, want := codeSpans(row[0]), codeSpans(row[1])
		if len(written) != 1 || len(want) != 1 {
			t.Fatalf("%q: one name each", row)
		}
		if got, err := localName("localhost:5000", "acme", written[0]); err != nil || got != want[0] {
			t.Errorf("%s becomes %s, %v; the document says %s", written[0], got, err, want[0])
		}
	}
	for _, bad := range []string{"", "Nginx", "ghcr.io/acme/app:1:2", "../etc", "acme//app", "nginx latest"} {
		if got, err := localName("localhost:5000", "acme", bad); err == nil {
			t.Errorf("%q becomes %s", bad, got)
		}
	}
}

// component is the specification's grammar for a piece of a repository's name,
// host that of a registry with or without a port.
var (
	component = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	host      = regexp.MustCompile(`^[a-z0-9]+([.-]+[a-z0-9]+)*(:[0-9]+)?$`)
)

// localName is how an image that a user names is called on a node.
func localName(berth, organisation, image string) (string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", err
	}
	registry := ref.Context().RegistryStr()
	if !host.MatchString(registry) {
		return "", fmt.Errorf("%q names no registry", image)
	}
	for part := range strings.SplitSeq(ref.Context().RepositoryStr(), "/") {
		if !component.MatchString(part) {
			return "", fmt.Errorf("%q is no image name", image)
		}
	}
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	separator := ":"
	if _, ok := ref.(name.Digest); ok {
		separator = "@"
	}
	return berth + "/" + organisation + "/" + strings.ReplaceAll(registry, ":", "_") + "/" +
		ref.Context().RepositoryStr() + separator + ref.Identifier(), nil
}
