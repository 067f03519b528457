package config

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const (
	examplePath = "../../config.example.yaml"
	docPath     = "../../doc/configuration.md"
)

// TestExampleIsTheDefault: as it stands, the example says what no file says.
func TestExampleIsTheDefault(t *testing.T) {
	got, err := Load(examplePath, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	want := Default(testOptions())
	if len(got.Warnings) > 0 {
		t.Errorf("warnings: %q", got.Warnings)
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		if tag := f.Tag.Get("yaml"); tag == "" || tag == "-" {
			continue
		}
		g, w := fmt.Sprintf("%+v", reflect.ValueOf(*got).Field(i)), fmt.Sprintf("%+v", reflect.ValueOf(*want).Field(i))
		if g != w {
			t.Errorf("%s: the example says %s, the default is %s", f.Name, g, w)
		}
	}
}

// uncommented is the example with every setting in use: a # that no single
// space follows is taken away.
func uncommented(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^( *)#([^ #]| {2})`).ReplaceAll(text, []byte("$1$2"))
}

func TestExampleUncommentedIsValid(t *testing.T) {
	c, err := Parse(uncommented(t), "config.example.yaml", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %q", c.Warnings)
	}
	if got := len(c.Organisations["acme"].Credentials); got != 4 {
		t.Errorf("the commented settings were not all read: %d credentials, want 4", got)
	}
}

// TestExampleHasEveryKey fails when a key of the structs is not in the example.
func TestExampleHasEveryKey(t *testing.T) {
	text := uncommented(t)
	root, err := parseYAML(text, "config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	usedKeys(root, reflect.TypeFor[Config](), used)
	if !strings.Contains(string(text), "# password: ") {
		t.Error("the example does not mention password")
	}
	used["Account.password"] = true // refused in a main file, so it can only be mentioned
	used["Policy.signed"] = true    // refused
	for _, k := range allKeys(reflect.TypeFor[Config]()) {
		if !used[k.owner+"."+k.name] {
			t.Errorf("config.example.yaml lacks %s (%s.%s)", k.path, k.owner, k.name)
		}
	}
}

// TestDocExamples reads every piece of YAML in the walk-throughs.
func TestDocExamples(t *testing.T) {
	var text []byte
	for _, path := range []string{docPath, "../../doc/fleet.md"} {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, page...)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) < 5 {
		t.Fatalf("only %d examples were found", len(blocks))
	}
	for _, block := range blocks {
		c, err := Parse(block[1], "doc.yaml", testOptions())
		if bytes.HasPrefix(block[1], []byte("# organisations.d/acme.yaml\n")) {
			c = Default(testOptions())
			_, _, err = c.dropIn("acme", "/etc/berth/organisations.d/acme.yaml", block[1])
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, block[1])
		} else if len(c.Warnings) > 0 {
			t.Errorf("%q in\n%s", c.Warnings, block[1])
		}
	}
}

// usedKeys notes the keys that n uses, by the type that has them.
func usedKeys(n *yaml.Node, t reflect.Type, used map[string]bool) {
	t = element(t)
	if n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			usedKeys(c, t, used)
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, n.Content[i+1]
		if t.Kind() == reflect.Map {
			usedKeys(value, t.Elem(), used)
			continue
		}
		for _, k := range keysOf(t, "") {
			if k.name == name {
				used[k.owner+"."+name] = true
				usedKeys(value, k.typ, used)
			}
		}
	}
}

// configKey is one key of the file.
type configKey struct {
	owner, name string // Go type and key
	path        string
	typ         reflect.Type
	field       string // Go name
	restart     bool
}

// element strips pointers and lists.
func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func keysOf(t reflect.Type, path string) []configKey {
	var keys []configKey
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if f.Anonymous {
			keys = append(keys, keysOf(f.Type, path)...)
		} else if name != "" && name != "-" {
			_, restart := f.Tag.Lookup("restart")
			keys = append(keys, configKey{t.Name(), name, dot(path, name), f.Type, f.Name, restart})
		}
	}
	return keys
}

// allKeys are all keys, each type's once.
func allKeys(t reflect.Type) []configKey {
	var keys []configKey
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type, string)
	walk = func(t reflect.Type, path string) {
		if seen[t] {
			return
		}
		seen[t] = true
		for _, k := range keysOf(t, path) {
			keys = append(keys, k)
			if group, at := below(k); group != nil {
				walk(group, at)
			}
		}
	}
	walk(t, "")
	return keys
}

// below is the struct that k's value is made of, and its path; nil for values.
func below(k configKey) (reflect.Type, string) {
	t, path := k.typ, k.path
	for {
		switch {
		case isValue(t):
			return nil, ""
		case t.Kind() == reflect.Pointer:
			t = t.Elem()
		case t.Kind() == reflect.Slice:
			t, path = t.Elem(), path+"[]"
		case t.Kind() == reflect.Map:
			t, path = t.Elem(), path+".NAME"
		case t.Kind() == reflect.Struct:
			return t, path
		default:
			return nil, ""
		}
	}
}

func isValue(t reflect.Type) bool { return parser(reflect.New(t).Elem()) != nil }

// comments are the comments of this package's types ("Config") and fields
// ("Config.Listeners").
func comments(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, "../registry/spec.go") {
		file, err := goparser.ParseFile(token.NewFileSet(), name, nil, goparser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if d, ok := n.(*ast.GenDecl); ok && d.Tok == token.TYPE {
				typeComments(d, found)
			}
			return true
		})
	}
	return found
}

func typeComments(d *ast.GenDecl, found map[string]string) {
	for _, s := range d.Specs {
		spec, ok := s.(*ast.TypeSpec)
		if !ok {
			continue
		}
		found[spec.Name.Name] = strings.TrimSpace(d.Doc.Text())
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range st.Fields.List {
			for _, name := range f.Names {
				found[spec.Name.Name+"."+name.Name] = strings.TrimSpace(f.Doc.Text())
			}
		}
	}
}

// TestEveryKeyIsExplained holds the comments to what a reader needs: what
// happens without the key, and whether a reload is enough.
func TestEveryKeyIsExplained(t *testing.T) {
	text := comments(t)
	for _, k := range allKeys(reflect.TypeFor[Config]()) {
		comment := strings.Join(strings.Fields(text[k.owner+"."+k.field]), " ")
		group, _ := below(k)
		if comment == "" {
			t.Errorf("%s has no comment", k.path)
		} else if group == nil && !strings.Contains(comment, "Default: ") && !strings.Contains(comment, "Required") && k.owner != "Account" {
			t.Errorf("the comment on %s says neither Default: nor Required", k.path)
		}
		if says := strings.Contains(comment, "Needs a restart."); says != k.restart {
			t.Errorf("%s: the comment says restart: %v, the tag says %v", k.path, says, k.restart)
		}
	}
}

var update = flag.Bool("update", false, "write the reference into doc/configuration.md")

const referenceMark = "<!-- From here on made from the comments in internal/config: go test ./internal/config -run TestReference -update -->\n"

func TestReferenceIsCurrent(t *testing.T) {
	text, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	intro, got, ok := strings.Cut(string(text), referenceMark)
	if !ok {
		t.Fatalf("%s lacks the line %s", docPath, referenceMark)
	}
	want := reference(t)
	if *update {
		if err := os.WriteFile(docPath, []byte(intro+referenceMark+want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if got != want {
		t.Errorf("%s is out of date: go test ./internal/config -run TestReference -update", docPath)
	}
	for _, k := range allKeys(reflect.TypeFor[Config]()) {
		if !strings.Contains(want, "`"+k.path+"`") {
			t.Errorf("the reference lacks %s", k.path)
		}
	}
}

// reference is the second half of doc/configuration.md.
func reference(t *testing.T) string {
	t.Helper()
	text := comments(t)
	var b strings.Builder
	b.WriteString("\n## Reference\n")
	shown := map[string]string{}
	for _, k := range allKeys(reflect.TypeFor[Config]()) {
		comment := markdown(text[k.owner+"."+k.field])
		if k.owner == "Config" {
			fmt.Fprintf(&b, "\n### `%s`\n\n%s\n", k.path, comment)
		} else {
			fmt.Fprintf(&b, "\n- **`%s`** (%s)  \n  %s\n", k.path, written(k.typ), strings.ReplaceAll(comment, "\n", "\n  "))
		}
		group, at := below(k)
		if group == nil {
			continue
		}
		if first, ok := shown[group.Name()]; ok {
			fmt.Fprintf(&b, "\n  `%s` has the keys of `%s`.\n", at, first)
			continue
		}
		shown[group.Name()] = at
		if about := markdown(text[group.Name()]); strings.Contains(about, ". ") {
			fmt.Fprintf(&b, "\n%s\n", about)
		}
	}
	return b.String()
}

// markdown keeps the stars of patterns from making text bold.
func markdown(s string) string { return strings.ReplaceAll(s, "*", `\*`) }

// written says how a value of type t is written.
func written(t reflect.Type) string {
	switch t.Name() {
	case "Duration", "Address", "Size", "Hash":
		return strings.ToLower(t.Name())
	case "Time":
		return "date"
	case "Prefix":
		return "network"
	case "bool":
		return "true or false"
	case "int", "float64":
		return "number"
	}
	switch {
	case t == reflect.TypeFor[notYet]():
		return "refused"
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.Map || t.Kind() == reflect.Struct && !isValue(t):
		return "keys"
	case t.Kind() == reflect.Pointer:
		return written(t.Elem())
	}
	if c, ok := reflect.TypeAssert[choice](reflect.New(t)); ok {
		return strings.Join(c.Values(), ", ")
	}
	return "text"
}
