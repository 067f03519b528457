//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nerdctlCommand is nerdctl in front of a containerd of ours.
type nerdctlCommand struct {
	containerd

	program string
}

// findNerdctl skips the test where there is none, also where everything else was
// installed: not every Go module proxy serves all that it is made of.
func findNerdctl(t *testing.T) string {
	t.Helper()
	path, err := program{"nerdctl", true}.lookUp()
	if err != nil {
		t.Skip("no nerdctl among the tools:", err)
	}
	return path
}

func (n nerdctlCommand) explains() bool { return true }

func (n nerdctlCommand) pull(t *testing.T, ref string, _ login) ([]string, error) {
	t.Helper()
	base := []string{"--address", n.socket, "--data-root", filepath.Join(n.dir, "nerdctl"), "--hosts-dir", n.hosts}
	if _, err := run(t, n.dir, nil, n.program, append(base, "pull", "--quiet", ref)...); err != nil {
		return nil, err
	}
	said, err := run(t, n.dir, nil, n.program, append(base, "images", "--digests", "--no-trunc", "--format", "{{.Digest}}", ref)...)
	return strings.Fields(said), err
}

// nerdctl with what setup prints for it, as an organisation: its own login for the
// address, all registries by their names.
func TestSetupNerdctl(t *testing.T) {
	onlyBehindBerth(t)
	path := findNerdctl(t)
	w := newWorld(t)
	n := nerdctlCommand{startContainerd(t, containerdTwo, w), path}
	must(t, os.RemoveAll(n.hosts))
	w.berth.setUp(t, "nerdctl", "--org", "acme", "--write", "--file", filepath.Join(n.dir, "config.toml"))
	i := pushIndex(t, w.acme, "team/hosts")
	mustPull(t, n, ownName(w, i), login{}, i.digest)
	h := pushIndex(t, w.hub, "library/greeting")
	mustPull(t, n, "docker.io/library/greeting:1", login{}, h.digest)
	mustRefuse(t, n, ownName(w, pushImage(t, w.globex, "team/foreign", 4<<10)), login{}, refused)
	other := pushImage(t, w.acme, "team/other", 4<<10)
	stays(t, w, n, ownName(w, other))
}
