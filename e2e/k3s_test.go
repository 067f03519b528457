//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// k3s and RKE2 read what setup writes by a library of their own, which makes hosts.toml of
// it: here it is asked what it understands.
func TestSetup_K3sReadsIt(t *testing.T) {
	n := newNamed(t)
	dir, err := built()
	must(t, err)
	parser := filepath.Join(dir, "k3s")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", parser, ".")
	build.Dir = "testdata/k3s" // a module of its own, whose dependencies are nobody else's
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	type endpoints struct {
		Endpoint []string `json:"endpoint"`
	}
	type login struct {
		Auth struct{ Username, Password string } `json:"auth"`
	}
	read := func(file string) (r struct {
		Mirrors map[string]endpoints `json:"mirrors"`
		Configs map[string]login     `json:"configs"`
	}) {
		out, err := run(t, n.dir, nil, parser, file)
		must(t, err)
		must(t, json.Unmarshal([]byte(out), &r))
		return r
	}
	file := writeFile(t, filepath.Join(n.etc, "registries.yaml"), "mirrors:\n  ghcr.io:\n    endpoint: [\"https://other.example\"]\n    rewrite: {\"a\": \"b\"}\n")
	n.setUp(t, "k3s", "--org", "acme", "--token-file", n.secret, "--write", "--file", file)
	r := read(file)
	for _, u := range []*upstream{n.ghcr, n.globex, n.hub, n.open} {
		if e := r.Mirrors[u.name].Endpoint; len(e) == 0 || e[0] != "http://"+n.address {
			t.Errorf("%s is asked at %v", u.name, e)
		}
	}
	if e := r.Mirrors["ghcr.io"].Endpoint; len(e) != 2 || e[1] != "https://other.example" {
		t.Errorf("what was there is %v", e)
	}
	if a := r.Configs[n.address].Auth; a.Username != "acme" || a.Password != headerToken("acme") {
		t.Errorf("it logs in as %q", a.Username)
	}
	n.setUp(t, "k3s", "--org", "acme", "--undo", "--file", file)
	if r := read(file); len(r.Mirrors) != 1 || len(r.Mirrors["ghcr.io"].Endpoint) != 1 || len(r.Configs) != 0 {
		t.Errorf("undone: %+v", r)
	}
}
