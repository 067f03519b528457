//go:build e2e

package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The README's first pulls, by the docker command, in words as they stand there
// but for port and tag.
func TestReadmeFirstPull(t *testing.T) {
	onlyBehindBerth(t)
	text, err := os.ReadFile("../README.md")
	must(t, err)
	_, script, ok := strings.Cut(string(text), "<!-- e2e: TestReadmeFirstPull -->\n```sh\n")
	if !ok {
		t.Fatal("the README has no such block")
	}
	script, _, _ = strings.Cut(script, "```")
	w := newWorld(t)
	d := startDocker(t, dockerOld, w)
	pushIndex(t, w.hub, "library/nginx")
	script = strings.NewReplacer("localhost:5000", w.berth.open, "/nginx\n", "/nginx:1\n").Replace(script)
	// The other registry is not one of this world.
	script = regexp.MustCompile(`(?m)^.*ghcr\.io.*$`).ReplaceAllString(script, "")
	if !strings.Contains(script, "docker pull") {
		t.Fatal(script)
	}
	out, err := run(t, d.dir, []string{"DOCKER_HOST=unix://" + d.socket}, "/bin/sh", "-euc", script)
	must(t, err)
	if !strings.Contains(out, "Status: Downloaded newer image") {
		t.Errorf("%s", out)
	}
}
