//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// dockerVersion says which dockerd to start, on which containerd.
type dockerVersion struct {
	daemon     program
	containerd containerdVersion
	drivers    []string // storage drivers, the better one first; none: containerd's own store
	config     func(dir string) map[string]any
}

var (
	// dockerOld has the graphdriver store: it asks /v2/ first, and sends a login
	// to a mirror that asks for one.
	dockerOld = dockerVersion{
		daemon: dockerd20, containerd: containerdOne,
		drivers: []string{"overlay2", "vfs"},
		config: func(dir string) map[string]any {
			return map[string]any{"deprecated-key-path": filepath.Join(dir, "key.json")} // else in /etc/docker
		},
	}
	// dockerNew has the containerd image store, as every fresh installation of Docker 29 has.
	dockerNew = dockerVersion{
		daemon: moby, containerd: containerdTwo,
		config: func(string) map[string]any {
			return map[string]any{"features": map[string]bool{"containerd-snapshotter": true}}
		},
	}
)

func TestDockerOld(t *testing.T) {
	testPuller(t, (*world).ref, func(t *testing.T, w *world) puller { return startDocker(t, dockerOld, w) })
}

func TestDockerNew(t *testing.T) {
	testPuller(t, (*world).ref, func(t *testing.T, w *world) puller { return startDocker(t, dockerNew, w) })
}

// What registry-mirrors is for: names without a registry come through the front.
func TestDockerOldMirror(t *testing.T) { testMirror(t, dockerOld) }
func TestDockerNewMirror(t *testing.T) { testMirror(t, dockerNew) }

func testMirror(t *testing.T, v dockerVersion) {
	t.Helper()
	w := newWorld(t)
	d := startDocker(t, v, w)
	i := pushIndex(t, w.hub, "library/greeting")
	mustPull(t, d, "greeting:1", login{}, i.digest)
}

// What was pulled runs.
func TestDockerOldRun(t *testing.T) {
	w := newWorld(t)
	d := startDocker(t, dockerOld, w)
	i := pushHello(t, w.acme, "team/hello")
	mustPull(t, d, w.ref(i), w.as("acme"), i.digest)
	if out := d.run(t, w.ref(i)); out != "hello from the other side of the berth\n" {
		t.Errorf("the image says %q", out)
	}
}

// docker login to the front, right and wrong.
func TestDockerOldLogin(t *testing.T) { testLogin(t, dockerOld) }
func TestDockerNewLogin(t *testing.T) { testLogin(t, dockerNew) }

func testLogin(t *testing.T, v dockerVersion) {
	t.Helper()
	w := newWorld(t)
	d := startDocker(t, v, w)
	if err := d.login(t, w.host(w.acme), w.as("acme")); err != nil {
		t.Errorf("acme may not log in: %v", err)
	}
	if err := d.login(t, w.host(w.acme), login{w.as("acme").user, "wrong"}); err == nil {
		t.Error("acme may log in with a wrong token")
	}
}

// startDocker starts a dockerd on a containerd of its own, with the front as
// its mirror of Docker Hub.
func startDocker(t *testing.T, v dockerVersion, w *world) docker {
	t.Helper()
	d, _ := startDockerWith(t, v, w, nil, "--registry-mirror", "http://"+w.mirror())
	return d
}

// startDockerWith starts one with more flags, below a command that starts it.
func startDockerWith(t *testing.T, v dockerVersion, w *world, below []string, more ...string) (docker, *daemon) {
	t.Helper()
	path := v.daemon.find(t)
	c := startContainerd(t, v.containerd, w)
	d := newDocker(t, tempDir(t, "docker"))
	config, err := json.Marshal(v.config(d.dir))
	if err != nil {
		t.Fatal(err)
	}
	o := daemonOptions{
		name: "dockerd",
		path: path,
		args: []string{
			"--config-file", writeFile(t, filepath.Join(d.dir, "daemon.json"), string(config)),
			"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
			"--host", "unix://" + d.socket, "--pidfile", filepath.Join(d.dir, "pid"),
			"--containerd", c.socket,
			"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
		},
		dir:   d.dir,
		ready: d.ping,
	}
	o.args = append(o.args, more...)
	if len(v.drivers) == 0 {
		if len(below) > 0 {
			command, err := exec.LookPath(below[0])
			must(t, err)
			o.path, o.args = command, slices.Concat(below[1:], []string{path}, o.args)
		}
		return d, startDaemon(t, o)
	}
	for _, driver := range v.drivers {
		try := o
		try.args = append([]string{"--storage-driver", driver}, o.args...)
		started, failed := tryDaemon(t, try)
		if err = failed; err == nil {
			return d, started
		}
		t.Logf("with %s: %v", driver, err)
	}
	t.Fatal(err)
	return d, nil
}

// awaitMirror waits until the daemon has a mirror, which a reload gives it.
func awaitMirror(t *testing.T, d docker) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); ; {
		var info struct{ RegistryConfig struct{ Mirrors []string } }
		must(t, d.call(t, http.MethodGet, "/info", nil, nil, &info))
		if len(info.RegistryConfig.Mirrors) > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the daemon has no mirror")
		}
	}
}

func (d docker) explains() bool { return true }

func (d docker) pull(t *testing.T, ref string, as login) ([]string, error) {
	t.Helper()
	if err := d.create(t, ref, as); err != nil {
		return nil, err
	}
	var image struct {
		RepoDigests          []string
		Os, Architecture, ID string
	}
	if err := d.call(t, http.MethodGet, "/images/"+ref+"/json", nil, nil, &image); err != nil {
		return nil, err
	}
	if got := image.Os + "/" + image.Architecture; got != platform {
		return nil, fmt.Errorf("pulled %s, and this is %s", got, platform)
	}
	return digestsIn(image.RepoDigests), nil
}
