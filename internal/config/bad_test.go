package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var record = flag.Bool("record", false, "write what the cases in testdata say now; read the difference before it is kept")

// badCase is a piece of YAML and the lines of the error that it makes.
type badCase struct{ name, text, want string }

// readCases reads a file of cases: "=== NAME", the YAML, and "--> " before each
// line of the error.
func readCases(t *testing.T, path string) []badCase {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var cases []badCase
	for part := range strings.SplitSeq("\n"+string(text), "\n=== ") {
		if part == "" {
			continue
		}
		var c badCase
		var rest string
		c.name, rest, _ = strings.Cut(part, "\n")
		for line := range strings.Lines(strings.TrimSuffix(rest, "\n") + "\n") {
			if want, ok := strings.CutPrefix(line, "--> "); ok {
				c.want += want
			} else {
				c.text += line
			}
		}
		c.want = strings.TrimSuffix(c.want, "\n")
		cases = append(cases, c)
	}
	return cases
}

func testCases(t *testing.T, path string, check func(t *testing.T, text string) error) {
	t.Helper()
	var seen bytes.Buffer
	cases := readCases(t, path)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := check(t, c.text)
			if err == nil {
				t.Fatalf("no error, want\n%s", c.want)
			}
			if got := err.Error(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error repeats a secret")
			}
			seen.WriteString("=== " + c.name + "\n" + c.text)
			for line := range strings.SplitSeq(err.Error(), "\n") {
				seen.WriteString("--> " + line + "\n")
			}
		})
	}
	if *record {
		if err := os.WriteFile(path, seen.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadMainFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			testCases(t, file, func(_ *testing.T, text string) error {
				_, err := Parse([]byte(text), "berth.yaml", testOptions())
				return err
			})
		})
	}
}

func TestBadDropIns(t *testing.T) {
	main := `
registries:
  platform.example: {aliases: [platform]}
helpers: [ecr-login]
organisations:
  initech: {}
`
	testCases(t, "testdata/bad-dropins.txt", func(t *testing.T, text string) error {
		c, err := Parse([]byte(main), "/etc/berth/config.yaml", testOptions())
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = c.dropIn("acme", "/etc/berth/organisations.d/acme.yaml", []byte(text))
		return err
	})
}

// TestBytesThatAreNoText has what a file of cases cannot hold.
func TestBytesThatAreNoText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":           {"", "berth.yaml: the file is empty: write at least one key, or remove the file"},
		"not UTF-8":         {"log:\n  level: \"\xff\"\n", "berth.yaml:2:11: this is no YAML: invalid leading UTF-8 octet (value: 255)"},
		"control character": {"log:\n  level: \x01\n", "berth.yaml:2:10: this is no YAML: control characters are not allowed (value: 1)"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.text), "berth.yaml", testOptions()); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}
