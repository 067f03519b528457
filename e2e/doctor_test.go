//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What files say is not what a daemon does: one that reads others is found by the pull that
// doctor has it make, which the node has not seen.
func TestDoctor_Canary(t *testing.T) {
	n := newNamed(t)
	led := n.dockerNamed(t, "--token-file", n.secret)
	around, _ := startDockerWith(t, dockerNew, n.world(), nil) // it does not read what setup wrote
	file := filepath.Join(n.etc, "daemon.json")
	pushImage(t, n.ghcr, "acme/app", 4<<10)
	pushImage(t, n.open, "x", 4<<10)
	for _, d := range []docker{led, around} {
		doctor := func(more ...string) (string, error) {
			return n.berth(t, append([]string{"doctor", "docker", "--file", file, "--docker-socket", d.socket}, more...)...)
		}
		if out, err := doctor(); err != nil {
			t.Errorf("by its files: %v\n%s", err, out)
		}
		out, err := doctor("--canary", "ghcr.io/acme/app,reg.example:5443/x", "--canary", "docker.io/library/nginx")
		told, _ := n.berth(t, "status")
		if strings.Count(told, "docker goes around this node for ") != map[bool]int{true: 0, false: 3}[d == led] {
			t.Errorf("the status: %s", told)
		}
		if d == led {
			if err != nil || strings.Count(out, "(seen)") != 3 {
				t.Errorf("%v\n%s", err, out)
			}
			continue
		}
		if err == nil || strings.Count(out, "bypass: ") != 3 || !strings.Contains(out, "berth has not seen that; it says: ") || strings.Contains(out, "(seen)") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// podman and ctr are asked by their own commands.
func TestDoctor_CanaryOfCommands(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	pushImage(t, w.hub, "library/app", 4<<10)
	path, err := berthBinary()
	must(t, err)
	p, c := startPodman(t), startContainerd(t, containerdOne, w)
	conf, config := filepath.Join(p.dir, "registries.conf"), filepath.Join(c.dir, "config.toml")
	must(t, os.RemoveAll(c.hosts))
	must(t, os.Remove(conf))
	for client, file := range map[string]string{"podman": conf, "containerd": config} {
		w.berth.setUp(t, client, "--write", "--file", file)
		doctor := func(env ...string) (string, error) {
			return run(t, p.dir, append([]string{
				"CONTAINERS_STORAGE_CONF=" + filepath.Join(p.dir, "storage.conf"), "CONTAINERS_CONF=" + filepath.Join(p.dir, "containers.conf"), "REGISTRY_AUTH_FILE=" + filepath.Join(p.dir, "config.json"),
				"XDG_RUNTIME_DIR=" + p.dir, "CONTAINERD_ADDRESS=" + c.socket,
			}, env...), path, "--config", w.berth.config(), "doctor", client, "--file", file, "--canary", "docker.io/library/app")
		}
		out, err := doctor("CONTAINERS_REGISTRIES_CONF=" + conf)
		if strings.Count(out, "(seen)") != 1 || strings.Contains(out, "has not seen") {
			t.Errorf("%s: %v\n%s", client, err, out)
		}
		if client == "podman" {
			out, err := doctor("CONTAINERS_REGISTRIES_CONF=/dev/null")
			if err == nil || !strings.Contains(out, "berth has not seen that") {
				t.Errorf("%s by another file: %v\n%s", client, err, out)
			}
		}
	}
}

// Kubernetes' way to pull, crictl, of a containerd with CRI and of k3s (whose own crictl is
// that one): the canary comes by the hosts.toml that CRI is led to, and not where it is led
// to others.
func TestDoctor_CanaryByCRI(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	pushImage(t, w.hub, "library/app", 4<<10)
	path, err := berthBinary()
	must(t, err)
	tools := tempDir(t, "bin")
	must(t, os.Symlink(crictl.find(t), filepath.Join(tools, "crictl")))
	writeFile(t, filepath.Join(tools, "k3s"), "#!/bin/sh\nshift\nexec crictl \"$@\"\n")
	must(t, os.Chmod(filepath.Join(tools, "k3s"), 0o755))
	for where, led := range map[string]bool{"led": true, "elsewhere": false} {
		etc := tempDir(t, where)
		config := filepath.Join(etc, "config.toml")
		w.berth.setUp(t, "containerd", "--write", "--file", config)
		w.berth.setUp(t, "k3s", "--write", "--file", filepath.Join(etc, "registries.yaml"))
		cri := containerdTwo
		certs := filepath.Join(etc, map[bool]string{true: "certs.d", false: "others"}[led])
		cri.config = "version = 3\ndisabled_plugins = [\"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n" +
			"[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"" + certs + "\"\n"
		c := startContainerd(t, cri, w)
		for client, file := range map[string]string{"containerd": config, "k3s": filepath.Join(etc, "registries.yaml")} {
			env := []string{"PATH=" + tools + ":" + os.Getenv("PATH"), "CONTAINERD_ADDRESS=" + c.socket, "CONTAINER_RUNTIME_ENDPOINT=unix://" + c.socket, "IMAGE_SERVICE_ENDPOINT=unix://" + c.socket}
			out, err := run(t, c.dir, env, path, "--config", w.berth.config(), "doctor", client, "--file", file, "--canary", "docker.io/library/app")
			said := out
			if err != nil {
				said += err.Error()
			}
			if strings.Contains(said, "(seen)") != led || strings.Contains(said, "berth has not seen that") == led {
				t.Errorf("%s, %s: %v\n%s", client, where, err, out)
			}
		}
	}
}
