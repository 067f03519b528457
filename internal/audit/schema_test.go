package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// doc/audit.md has the keys of a line in their order, with their types, and which of
// them may be left out; all verdicts; and an example, which is such a line.
func TestEntry_IsAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../doc/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	_, keys, _ := strings.Cut(page, "| key | type | is |\n")
	keys, verdicts, _ := strings.Cut(keys, "| verdict | means |\n")
	verdicts, _, _ = strings.Cut(verdicts, "\n\n")
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (?:(text|number) \\| )?(.*) \\|$")

	var documented, there []string
	for _, m := range row.FindAllStringSubmatch(keys, -1) {
		line := m[1] + " " + m[2]
		if strings.Contains(m[3], "eft out") {
			line += ",omitempty"
		}
		documented = append(documented, line)
	}
	for f := range reflect.TypeFor[Entry]().Fields() {
		name, omit, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		kind := "text"
		if f.Type.Kind() == reflect.Int || f.Type.Kind() == reflect.Int64 {
			kind = "number"
		}
		line := name + " " + kind
		if omit != "" {
			line += "," + omit
		}
		there = append(there, line)
	}
	if !reflect.DeepEqual(documented, there) {
		t.Errorf("documented are\n%s\na line has\n%s", strings.Join(documented, "\n"), strings.Join(there, "\n"))
	}

	var named []string
	for _, m := range row.FindAllStringSubmatch(verdicts, -1) {
		named = append(named, m[1])
	}
	if want := []string{string(Allowed), string(Stale), string(Bypassed), string(Refused), string(Failed)}; !reflect.DeepEqual(named, want) {
		t.Errorf("documented are the verdicts %q, there are %q", named, want)
	}

	_, example, _ := strings.Cut(page, "```json\n")
	example, _, _ = strings.Cut(example, "```")
	strict := json.NewDecoder(strings.NewReader(example))
	strict.DisallowUnknownFields()
	var e Entry
	if err := strict.Decode(&e); err != nil {
		t.Fatalf("the example: %v", err)
	}
	if line, err := e.line(); err != nil || !bytes.Equal(line, []byte(example)) {
		t.Errorf("the example is\n%sand would be written as\n%s%v", example, line, err)
	}
}
