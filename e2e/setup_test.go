//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// plan is what berth setup --json prints.
type plan struct {
	Files []struct{ Path, When, Content string }
}

// setUp runs berth setup for the running node.
func (b *berth) setUp(t *testing.T, args ...string) string {
	t.Helper()
	path, err := berthBinary()
	must(t, err)
	out, err := run(t, b.dir, nil, path, append([]string{"--config", b.config(), "setup"}, args...)...)
	must(t, err)
	return out
}

// planFor is the plan for a client.
func (b *berth) planFor(t *testing.T, args ...string) plan {
	t.Helper()
	var p plan
	must(t, json.Unmarshal([]byte(b.setUp(t, append(args, "--json")...)), &p))
	return p
}

// file is the content of the file whose path ends so, for clients of a kind.
func (p plan) file(t *testing.T, path, when string) string {
	t.Helper()
	for _, f := range p.Files {
		if strings.HasSuffix(f.Path, path) && strings.Contains(f.When, when) {
			return f.Content
		}
	}
	t.Fatalf("no file %s (%s) in %+v", path, when, p)
	return ""
}

// stays says that with berth gone a pull fails, and goes nowhere else: the only
// other way out of here is a proxy that does not answer.
func stays(t *testing.T, w *world, p puller, ref string) {
	t.Helper()
	w.berth.stop(t)
	_, err := p.pull(t, ref, login{})
	if err == nil {
		t.Fatal("it was pulled without berth")
	}
	t.Logf("the user reads: %v", err)
	if strings.Contains(err.Error(), "proxyconnect") || strings.Contains(err.Error(), "lookup ") {
		t.Error("it goes around berth")
	}
}

// What berth setup docker --write writes is in force after a reload, as
// systemctl reload docker does it, and the rest of the file with it.
func TestSetupDockerOld(t *testing.T) { testSetupDocker(t, dockerOld) }
func TestSetupDockerNew(t *testing.T) { testSetupDocker(t, dockerNew) }

func testSetupDocker(t *testing.T, v dockerVersion) {
	t.Helper()
	onlyBehindBerth(t)
	w := newWorld(t)
	d, daemon := startDockerWith(t, v, w, nil)
	i := pushIndex(t, w.hub, "library/greeting")
	mustRefuse(t, d, "greeting:1", login{}, anything) // nothing leads to berth so far
	file := filepath.Join(d.dir, "daemon.json")
	before := readJSON(t, file)
	t.Log(w.berth.setUp(t, "docker", "--write", "--file", file))
	after := readJSON(t, file)
	if got := after["registry-mirrors"]; len(after) != len(before)+1 || got == nil {
		t.Errorf("%v became %v", before, after)
	}
	delete(after, "registry-mirrors")
	if !slices.Equal(slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before))) {
		t.Errorf("%v became %v", before, after)
	}
	must(t, daemon.cmd.Process.Signal(syscall.SIGHUP))
	awaitMirror(t, d)
	mustPull(t, d, "greeting:1", login{}, i.digest)
}

func readJSON(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	var doc map[string]any
	must(t, json.Unmarshal(text, &doc))
	return doc
}

// With hosts.toml the containerd image store leads every registry to berth, by
// its own name, and nowhere else; and after --undo no longer.
func TestSetupDockerHosts(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	etc := tempDir(t, "etc")
	file := filepath.Join(etc, "daemon.json")
	w.berth.setUp(t, "docker", "--org", "acme", "--write", "--file", file)
	d, _ := startDockerWith(t, dockerNew, w, etcDocker(etc))
	private := pushImage(t, w.acme, "team/private", 64<<10)
	public := pushIndex(t, w.hub, "library/greeting")
	mustPull(t, d, ownName(w, private), login{}, private.digest)
	mustPull(t, d, "greeting:1", login{}, public.digest)
	mustPull(t, d, w.berth.acme+"/"+w.acme.name+"/team/private:1", login{}, private.digest)
	other := pushImage(t, w.acme, "team/other", 4<<10)
	w.berth.setUp(t, "docker", "--org", "acme", "--undo", "--file", file)
	mustRefuse(t, d, ownName(w, other), login{}, anything)
	w.berth.setUp(t, "docker", "--org", "acme", "--write", "--file", file)
	stays(t, w, d, ownName(w, other))
}

// etcDocker starts a dockerd, which reads /etc/docker and no other folder, with one of its own.
func etcDocker(dir string) []string {
	return []string{
		"unshare", "--mount", "--propagation", "private", "sh", "-euc",
		`mkdir -p /etc/docker; mount --bind "$0" /etc/docker; exec "$@"`, dir,
	}
}

func TestSetupContainerd1(t *testing.T) {
	testSetupContainerd(t, containerdOne, "io.containerd.grpc.v1.cri")
}

func TestSetupContainerd2(t *testing.T) {
	testSetupContainerd(t, containerdTwo, "io.containerd.cri.v1.images")
}

func testSetupContainerd(t *testing.T, v containerdVersion, plugin string) {
	t.Helper()
	onlyBehindBerth(t)
	w := newWorld(t)
	c := startContainerd(t, v, w)
	must(t, os.RemoveAll(c.hosts))
	file := filepath.Join(c.dir, "config.toml") // beside certs.d
	must(t, os.WriteFile(file, nil, 0o600))
	w.berth.setUp(t, "containerd", "--org", "acme", "--write", "--file", file)
	i := pushIndex(t, w.acme, "team/hosts")
	mustPull(t, c, ownName(w, i), login{}, i.digest)
	h := pushIndex(t, w.hub, "library/greeting")
	mustPull(t, c, "docker.io/library/greeting:1", login{}, h.digest)

	// The part for CRI is one that this containerd understands.
	config := file
	dump, err := run(t, c.dir, nil, v.daemon.find(t), "--config", config, "--root", c.dir+"/r", "--state", c.dir+"/s", "config", "dump")
	must(t, err)
	if _, below, _ := strings.Cut(strings.ReplaceAll(dump, "'", `"`), `plugins."`+plugin+`".registry]`); !strings.Contains(below[:min(len(below), 200)], `config_path = "`+c.hosts+`"`) {
		t.Errorf("CRI has another config_path:\n%s", dump)
	}
	other := pushImage(t, w.acme, "team/other", 4<<10)
	stays(t, w, c, ownName(w, other))
}

func TestSetupPodman(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	c := startPodman(t)
	w.berth.setUp(t, "podman", "--org", "acme", "--write", "--file", filepath.Join(c.dir, "registries.conf"))
	dockerConfig(t, c.dir, w.berth.tokens, w.as("acme")) // podman login
	i := pushImage(t, w.acme, "team/by-name", 64<<10)
	mustPull(t, c, ownName(w, i), login{}, i.digest)
	h := pushIndex(t, w.hub, "library/greeting")
	mustPull(t, c, "docker.io/library/greeting:1", login{}, h.digest)
	other := pushImage(t, w.acme, "team/other", 4<<10)
	stays(t, w, c, ownName(w, other))
}
