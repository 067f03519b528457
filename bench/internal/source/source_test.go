package source

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

const example = `// A comment.
package example

/* two
lines */ import "fmt" // code before a comment

var greet = func() string {

	return ` + "`raw\n\nstring`" + `
}

type box[K comparable, V any] struct{}

func (b *box[K, V]) open() {
	func() {
		go func() { fmt.Println() }()
	}()
	defer func() {}()
}

func (box[K, V]) shut() {}

func plain() { _ = greet }
`

func TestSource_Parse(t *testing.T) {
	t.Parallel()
	f, err := parse("example.go", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := []Function{
		{"glob..func1", true, Position{7, 13}, Position{12, 2}},
		{"(*box).open", false, Position{16, 1}, Position{21, 2}},
		{"(*box).open.func1", true, Position{17, 2}, Position{19, 3}},
		{"(*box).open.func1.1", true, Position{18, 6}, Position{18, 30}},
		{"(*box).open.func2", true, Position{20, 8}, Position{20, 17}},
		{"box.shut", false, Position{23, 1}, Position{23, 27}},
		{"plain", false, Position{25, 1}, Position{25, 27}},
	}
	if !reflect.DeepEqual(f.Functions, want) {
		t.Errorf("functions:\n%+v\nwant:\n%+v", f.Functions, want)
	}
	// package; import; var, return, two more of the raw string, brace; type; open's
	// six; shut; plain.
	if f.Code != 16 || f.Lines != 25 {
		t.Errorf("%d lines of code in %d, want 16 in 25", f.Code, f.Lines)
	}
	if n := f.Functions[1].Lines(); n != 6 {
		t.Errorf("open has %d lines, want 6", n)
	}
	if _, err := parse("bad.go", []byte("package")); err == nil {
		t.Error("what does not parse passed")
	}
}

// TestSource_Load leaves tests and other systems' files out, and names files as
// coverage profiles do.
func TestSource_Load(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":               "module example.org/m\n\ngo 1.26\n",
		"m.go":                 "package m\n",
		"m_test.go":            "package m\n",
		"in/here/a.go":         "package here\n\nfunc A() {}\n",
		"in/here/a_plan9.go":   "package here\n",
		"tests/only_test.go":   "package tests\n",
		"in/testdata/other.go": "package other\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	packages, err := Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range packages {
		for _, f := range p.Files {
			got = append(got, p.Path+" "+f.Path+" "+f.ImportPath)
		}
	}
	want := []string{". m.go example.org/m/m.go", "in/here in/here/a.go example.org/m/in/here/a.go"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := Load(t.Context(), t.TempDir()); err == nil {
		t.Error("a folder without a module passed")
	}
}
