package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSize_Report: the product only, tests left out, closures counted but not
// measured.
func TestSize_Report(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                  "module example.org/m\n\ngo 1.26\n",
		"oci/a.go":                "package oci\n\n// A does.\nfunc A() {\n\tfunc() {\n\t}()\n}\n\nfunc b() {}\n",
		"oci/c.go":                "package oci\n\nfunc c() {\n\tA()\n}\n",
		"oci/a_test.go":           "package oci\n\nfunc inTest() {}\n",
		"bench/b.go":              "package bench\n\nfunc B() {}\n",
		"bench/walk/w.go":         "package walk\n",
		"benches/b.go":            "package benches\n",
		"internal/ocitest/o.go":   "package ocitest\n\nfunc O() {}\n",
		"fleet/memfleet/m.go":     "package memfleet\n\nfunc M() {}\n",
		"internal/nodetest/n.go":  "package nodetest\n\nfunc N() {}\n",
		"internal/nodetest2/n.go": "package nodetest2\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := report(t.Context(), dir, &out); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			got[name] = strings.Join(strings.Fields(rest), " ")
		}
	}
	for name, want := range map[string]string{
		"oci":     "2 10 4 1 3 4 9",
		"benches": "1 1 0 0 0 0 1",
		"product": "4 12 4 1 3 4 9",
		"longest": "function: 4 lines, oci/a.go:4 A",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
		delete(got, name)
	}
	for _, name := range []string{"bench", "bench/walk", "internal/ocitest", "internal/nodetest", "fleet/memfleet"} {
		if line, ok := got[name]; ok {
			t.Errorf("%s counts: %s", name, line)
		}
	}
}
