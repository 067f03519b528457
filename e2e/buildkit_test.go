//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// buildkit is a running buildkitd, and buildctl as its client.
type buildkit struct{ buildctl, dir, socket string }

func startBuildkit(t *testing.T, config string, env ...string) buildkit {
	t.Helper()
	path := buildkitd.find(t)
	b := buildkit{buildctl: buildctl.find(t), dir: tempDir(t, "bk")}
	b.socket = "unix://" + filepath.Join(b.dir, "b.sock")
	startDaemon(t, daemonOptions{
		name: "buildkitd",
		path: path,
		args: []string{
			"--config", writeFile(t, filepath.Join(b.dir, "buildkitd.toml"), config),
			"--root", filepath.Join(b.dir, "root"), "--addr", b.socket,
			"--containerd-worker=false", "--oci-worker=true", "--oci-worker-snapshotter=native",
		},
		dir:   b.dir,
		env:   env,
		ready: accepts(filepath.Join(b.dir, "b.sock")),
	})
	return b
}

func (b buildkit) explains() bool { return false }

// pull builds from the image, and says by which digest it was taken.
func (b buildkit) pull(t *testing.T, ref string, as login) ([]string, error) {
	t.Helper()
	if as.user != "" {
		t.Fatal("BuildKit has no login of one pull")
	}
	if err := b.build(t, ref, "type=local,dest="+filepath.Join(b.dir, "out")); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "trace.json"))
	if err != nil {
		return nil, err
	}
	return regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindAllString(strings.Join(regexp.MustCompile(`FROM [^"]+`).FindAllString(string(text), -1), " "), -1), nil
}

// build builds from the image, and puts it somewhere.
func (b buildkit) build(t *testing.T, ref, output string) error {
	t.Helper()
	writeFile(t, filepath.Join(b.dir, "context", "Dockerfile"), "FROM "+ref+"\n")
	_, err := run(t, b.dir, nil, b.buildctl, "--addr", b.socket, "build", "--no-cache", "--frontend", "dockerfile.v0",
		"--local", "context="+filepath.Join(b.dir, "context"), "--local", "dockerfile="+filepath.Join(b.dir, "context"),
		"--output", output, "--trace", filepath.Join(b.dir, "trace.json"))
	return err
}

// A FROM line leads to berth by the configuration that berth setup prints, and
// by the name that berth name prints.
func TestSetupBuildkit(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	b := startBuildkit(t, w.berth.planFor(t, "buildkit").file(t, "buildkitd.toml", ""))
	i := pushIndex(t, w.hub, "library/greeting")
	mustPull(t, b, "greeting:1", login{}, i.digest)
	named := pushIndex(t, w.hub, "library/named")
	path, err := berthBinary()
	must(t, err)
	name, err := run(t, w.berth.dir, nil, path, "--config", w.berth.config(), "name", "named:1", "--json")
	must(t, err)
	var local struct{ Name string }
	must(t, json.Unmarshal([]byte(name), &local))
	mustPull(t, b, local.Name, login{}, named.digest)
	pushIndex(t, w.hub, "library/other")
	w.berth.stop(t)
	mustRefuse(t, b, "other:1", login{}, anything)
}
