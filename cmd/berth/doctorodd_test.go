package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/doctor"
)

// odd is a configuration that a client reads in a way of its own.
type odd struct {
	client   string // docker if empty
	listener string // an open one if empty
	more     string // of the node's configuration
	// files by their names, in which DOOR is the listener, HOST its host and port, and DIR
	// the folder; before they are written, setup has.
	files   map[string]string
	fresh   bool           // setup has not
	problem doctor.Problem // empty: nothing is wrong
	says    string
	byHand  func(t *testing.T, dir string) // the cure, where no command does it
}

func oddConfigurations() map[string]odd {
	const led = "[host.\"DOOR\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
	const token, tls = `{address: "127.0.0.1:0", callers: token}`, `{address: "127.0.0.1:0", callers: open, tls: {cert_file: tls.crt, key_file: tls.key}}`
	shown := base64.StdEncoding.EncodeToString([]byte("acme:header-token-of-acme"))
	return map[string]odd{
		"containerd's spelling of a port, which goes before": {problem: doctor.Bypass, says: "no hosts.toml", files: map[string]string{"certs.d/reg.example_5443_/ca.crt": "x"}},
		"a folder without a hosts.toml, beside _default": {fresh: true, more: "unlisted_registries: public\n", problem: doctor.Bypass, says: "no hosts.toml", files: map[string]string{
			"certs.d/ghcr.io/client.cert": "x", "certs.d/_default/hosts.toml": "server = \"DOOR\"\n",
		}},
		"a host without a table of its own": {problem: doctor.WrongMirror, says: "table of its own", files: map[string]string{
			"certs.d/ghcr.io/hosts.toml": "server = \"https://ghcr.io\"\ncapabilities = [\"push\"]\n[host]\n\"DOOR\" = {capabilities = [\"pull\", \"resolve\"]}\n",
		}},
		"no server, so that what it is capable of is not heeded": {problem: doctor.Bypass, says: "https://ghcr.io", files: map[string]string{
			"certs.d/ghcr.io/hosts.toml": "capabilities = [\"push\"]\n" + led,
		}},
		"an unknown capability": {problem: doctor.Unreadable, says: "goes around", files: map[string]string{
			"certs.d/ghcr.io/hosts.toml": strings.Replace(led, "resolve", "resolves", 1),
		}},
		"a host without a scheme": {problem: doctor.Scheme, files: map[string]string{
			"certs.d/ghcr.io/hosts.toml": "server = \"https://ghcr.io\"\ncapabilities = [\"push\"]\n" + strings.Replace(led, "DOOR", "HOST", 1),
		}},
		"a path that leads nowhere": {problem: doctor.WrongMirror, says: "leads nowhere", files: map[string]string{
			"certs.d/ghcr.io/hosts.toml": "server = \"https://ghcr.io\"\ncapabilities = [\"push\"]\n" + strings.Replace(led, "DOOR", "DOOR/v2/ghcr.io", 1),
		}},
		"a path that is the usual one": {files: map[string]string{
			"certs.d/ghcr.io/hosts.toml": "server = \"https://ghcr.io\"\ncapabilities = [\"Push\"]\n" + strings.Replace(led, "DOOR", "DOOR/v2/", 1),
		}},
		"a token in a list":             {listener: token, files: map[string]string{"certs.d/ghcr.io/hosts.toml": "server = \"https://ghcr.io\"\ncapabilities = [\"push\"]\n" + led + "[host.\"DOOR\".header]\nAuthorization = [\"Basic " + shown + "\"]\n"}},
		"a certificate beside it":       {listener: tls, files: everyHosts("server = \"https://NAME\"\ncapabilities = [\"push\"]\n" + led + "ca = \"../../../tls.crt\"\n")},
		"nobody checks the certificate": {listener: tls, files: everyHosts("server = \"https://NAME\"\ncapabilities = [\"push\"]\n" + led + "skip_verify = true\n")},
		"a mirror on another port in daemon.json": {problem: doctor.Port, says: "another port", files: map[string]string{"daemon.json": `{"registry-mirrors": ["http://localhost:1"], "data-root": "/srv/docker"}`}, byHand: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, "daemon.json"), []byte(`{"data-root": "/srv/docker"}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		"config_path in an imported file": {client: "containerd", files: map[string]string{
			"config.toml": "version = 2\nimports = [\"conf.d/*.toml\"]\n", "conf.d/cri.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"DIR/certs.d\"\n",
		}},
		"a folder that goes before berth's": {client: "containerd", problem: doctor.WrongMirror, says: "mirror.example", files: map[string]string{
			"config.toml":              "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"DIR/first:DIR/certs.d\"\n",
			"first/ghcr.io/hosts.toml": "server = \"https://mirror.example\"\n",
		}},
		"a folder that goes after it": {client: "containerd", files: map[string]string{
			"config.toml":               "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"DIR/certs.d:DIR/second\"\n",
			"second/ghcr.io/hosts.toml": "server = \"https://mirror.example\"\n",
		}},
		"CRI's older mirrors": {client: "containerd", problem: doctor.Bypass, says: "registry.mirrors", files: map[string]string{
			"config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"ghcr.io\"]\nendpoint = [\"DOOR\"]\n",
		}, byHand: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte("version = 2\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		"no CRI in version 3": {client: "containerd", files: map[string]string{"config.toml": "version = 3\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.grpc.v1.cri\"]\n"}},
		"an entry for a part of a registry": {client: "podman", problem: doctor.WrongMirror, says: "ghcr.io/acme", files: map[string]string{
			"registries.conf": "[[registry]]\nprefix = \"ghcr.io/acme\"\nlocation = \"mirror.example/acme\"\n",
		}, byHand: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Remove(filepath.Join(dir, "registries.conf")); err != nil {
				t.Fatal(err)
			}
		}},
		"another registry's place behind berth": {client: "podman", problem: doctor.WrongMirror, says: "other images", files: map[string]string{
			"registries.conf.d/zz.conf": "[[registry]]\nprefix = \"ghcr.io\"\nlocation = \"HOST\"\ninsecure = true\n",
		}},
		"berth's place of a registry, written by hand": {client: "podman", files: map[string]string{
			"registries.conf.d/zz.conf": "[[registry]]\nprefix = \"ghcr.io\"\nlocation = \"HOST/ghcr.io\"\ninsecure = true\n",
		}},
		"a wrong entry in the main file, which berth's goes before": {client: "podman", fresh: true, problem: doctor.WrongMirror, says: "mirror.example", files: map[string]string{
			"registries.conf": "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nlocation = \"ghcr.io\"\nmirror = []\n[[registry]]\nprefix = \"quay.io\"\nlocation = \"mirror.example\"\n",
		}},
		"every registry by a star": {client: "k3s", fresh: true, files: map[string]string{"registries.yaml": "mirrors:\n  \"*\":\n    endpoint: [\"DOOR\"]\n"}},
		"another endpoint first":   {client: "k3s", problem: doctor.Port, files: map[string]string{"registries.yaml": "mirrors:\n  ghcr.io:\n    endpoint: [\"http://localhost:1\", \"DOOR\"]\nconfigs:\n  other.example: {auth: {username: u, password: p}}\n"}},
	}
}

// everyHosts is a hosts.toml for each registry.
func everyHosts(text string) map[string]string {
	all := map[string]string{}
	for _, name := range []string{
		"docker.io", "ghcr.io", "quay.io", "registry.digitalocean.com", "reg.example:5443", "gcr.io", "mcr.microsoft.com", "registry.k8s.io", "public.ecr.aws", "registry.gitlab.com", "lscr.io", "dhi.io",
	} {
		all["certs.d/"+name+"/hosts.toml"] = strings.Replace(text, "NAME", name, 1)
	}
	return all
}

// TestDoctor_ReadsAsTheClientDoes: what looks right and is not, and what looks wrong and is
// right. What is wrong is so no more after what doctor says.
func TestDoctor_ReadsAsTheClientDoes(t *testing.T) {
	t.Parallel()
	names := map[string]string{"docker": "daemon.json", "containerd": "config.toml", "podman": "registries.conf.d/berth.conf", "k3s": "registries.yaml"}
	for name, c := range oddConfigurations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatients(t, cmp.Or(c.listener, `{address: "127.0.0.1:0", callers: open}`), c.more)
			client, dir := cmp.Or(c.client, "docker"), filepath.Join(p.dir, "etc")
			file := filepath.Join(dir, names[client])
			if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
				t.Fatal(err)
			}
			args := []string{"--file", file}
			if c.listener != "" && strings.Contains(c.listener, "token") {
				p.home.write(filepath.Join(p.dir, "token"), "header-token-of-acme\n")
				args = append(args, "--org", "acme", "--token-file", filepath.Join(p.dir, "token"))
			}
			if !c.fresh {
				if out, code := p.berth(t, append([]string{"setup", client, "--write"}, args...)...); code != 0 {
					t.Fatal(out)
				}
			}
			door := p.n.doors[0]
			if strings.Contains(c.listener, "tls") {
				door = strings.Replace(door, "http:", "https:", 1)
			}
			for path, text := range c.files {
				p.write(t, path, strings.NewReplacer("DOOR", door, "HOST", strings.TrimPrefix(p.n.doors[0], "http://"), "DIR", dir).Replace(text))
			}
			look := func() doctor.Client {
				out, _ := p.berth(t, "doctor", client, "--json", "--file", file, "--docker-socket", p.sock)
				var r doctor.Report
				if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Clients) != 1 {
					t.Fatalf("%v in %s", err, out)
				}
				return r.Clients[0]
			}
			found := look()
			if c.problem == "" {
				if len(found.Findings) > 0 {
					t.Errorf("%+v", found.Findings)
				}
				return
			}
			i := slices.IndexFunc(found.Findings, func(f doctor.Finding) bool { return f.Problem == c.problem && strings.Contains(f.Message, c.says) })
			if i < 0 {
				t.Fatalf("no %s that says %q: %+v", c.problem, c.says, found.Findings)
			}
			if f := found.Findings[i]; c.byHand != nil {
				c.byHand(t, dir)
				p.berth(t, append([]string{"setup", client, "--write"}, args...)...)
			} else if out, err := exec.CommandContext(t.Context(), "sh", "-euc", f.Run).CombinedOutput(); err != nil || f.Run == "" {
				t.Fatalf("%q: %v: %s", f.Run, err, out)
			}
			if left := look().Findings; len(left) > 0 {
				t.Errorf("after %q: %+v", found.Findings[i].Run, left)
			}
		})
	}
}
