package setup

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/secret"
)

var (
	openPort  = Listener{Address: "localhost:5000", Loopback: true}
	tokenPort = Listener{Address: "localhost:5001", Loopback: true, Token: true}
	three     = []Registry{{"docker.io", "https://registry-1.docker.io"}, {"ghcr.io", "https://ghcr.io"}, {"reg.acme.com:5443", "https://10.0.0.8:5443"}}
)

// files are all below a folder, with what is in them.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, path)
			all[rel] = text(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func put(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func plan(t *testing.T, client string, o Options) Plan {
	t.Helper()
	p, err := For(client, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSetup_WriteAndUndo: for each client, what is foreign stays there, a second time
// changes nothing, and undoing leaves the files as they were.
func TestSetup_WriteAndUndo(t *testing.T) {
	t.Parallel()
	foreign := map[string]map[string]string{
		"docker": {
			"daemon.json":                       "{\n  \"log-driver\": \"journald\",\n  \"registry-mirrors\": [\n    \"https://other\"\n  ]\n}\n",
			"certs.d/ghcr.io/hosts.toml":        "# mine\nserver = \"https://ghcr.io\"\n\n[host.\"https://mirror.example\"]\n  capabilities = [\"pull\"]\n",
			"certs.d/reg.acme.com:5443/ca.crt":  "PEM",
			"certs.d/other.example/hosts.toml":  "server = \"https://other.example\"\n",
			"certs.d/reg.acme.com:5443/me.cert": "PEM", "certs.d/reg.acme.com:5443/me.key": "PEM",
		},
		"containerd": {"config.toml": "version = 3\n\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = ''\n\n[grpc]\naddress = \"/run/x\"\n"},
		"nerdctl":    {"config.toml": "version = 2\n"},
		"buildkit":   {"config.toml": "debug = true\n[registry.\"docker.io\"]\n  mirrors = [\"other\"]\n  insecure = true\n[worker.oci]\nenabled = true\n"},
		"k3s":        {"config.toml": "# mine\nmirrors:\n  docker.io:\n    endpoint:\n      - https://other\n    rewrite:\n      a: b\n"},
		"podman":     {"other.conf": "# another's"},
		"crio":       {},
	}
	for _, client := range Clients() {
		for _, unlisted := range []bool{false, true} {
			dir := t.TempDir()
			for name, content := range foreign[client] {
				put(t, filepath.Join(dir, name), content, 0o640)
			}
			file := filepath.Join(dir, map[string]string{"docker": "daemon.json", "podman": "berth.conf", "crio": "berth.conf"}[client])
			if file == dir {
				file = filepath.Join(dir, "config.toml")
			}
			before := files(t, dir)
			p := plan(t, client, Options{Listeners: []Listener{openPort}, Registries: three, File: file, Unlisted: unlisted})
			written, err := p.Write(now)
			if err != nil {
				t.Errorf("%s: %v", client, err)
				continue
			}
			after := files(t, dir)
			for name, content := range before {
				if changed := after[name] != content; changed && after[name+".before-berth-20260102T030405Z"] != content {
					t.Errorf("%s: there is no copy of %s as it was: %v", client, name, written)
				}
			}
			if _, there := after["certs.d/_default/hosts.toml"]; there != (unlisted && slices.Contains([]string{"docker", "containerd", "nerdctl"}, client)) {
				t.Errorf("%s, unlisted %v: _default is there: %v", client, unlisted, there)
			}
			again, err := p.Write(now)
			if err != nil || slices.ContainsFunc(again, func(w Written) bool { return w.Changed }) {
				t.Errorf("%s: a second time: %+v, %v", client, again, err)
			}
			if _, err := p.Undo(now); err != nil {
				t.Errorf("%s: %v", client, err)
			}
			undone := files(t, dir)
			for name, content := range undone {
				if strings.Contains(name, ".before-berth-") {
					continue
				}
				if client == "k3s" { // YAML is written anew
					content, before[name] = strings.Join(strings.Fields(content), " "), strings.Join(strings.Fields(before[name]), " ")
				}
				if content != before[name] {
					t.Errorf("%s: undone, %s is\n%s\nand was\n%s", client, name, content, before[name])
				}
			}
			for name := range before {
				if _, ok := undone[name]; !ok {
					t.Errorf("%s: undoing took %s away", client, name)
				}
			}
		}
	}
}

// TestSetup_Hosts: pulls go to berth, pushes to the registry, which is trusted as before;
// other hosts come after berth.
func TestSetup_Hosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acme := filepath.Join(dir, "certs.d/reg.acme.com:5443")
	put(t, filepath.Join(acme, "ca.crt"), "PEM", 0o644)
	put(t, filepath.Join(acme, "me.cert"), "PEM", 0o644)
	put(t, filepath.Join(acme, "me.key"), "PEM", 0o600)
	put(t, filepath.Join(acme, "lone.cert"), "PEM", 0o600)
	put(t, filepath.Join(dir, "certs.d/ghcr.io/hosts.toml"), "[host.\"https://mirror.example\"]\n  capabilities = [\"pull\"]\n", 0o644)
	put(t, filepath.Join(dir, "certs.d/gone.example/hosts.toml"), "", 0o644)
	o := Options{Listeners: []Listener{openPort}, Registries: append(slices.Clone(three), Registry{"gone.example", "https://gone.example"}), File: filepath.Join(dir, "daemon.json")}
	if _, err := plan(t, "docker", o).Write(now); err != nil {
		t.Fatal(err)
	}
	o.Registries = three
	written, err := plan(t, "docker", o).Write(now) // without the one that is not configured any more
	if err != nil {
		t.Fatal(err)
	}
	all := files(t, dir)
	want := tomlBegin + "server = \"https://10.0.0.8:5443\"\ncapabilities = [\"push\"]\nca = [\"" + acme + "/ca.crt\"]\nclient = [[\"" + acme + "/me.cert\", \"" + acme + "/me.key\"]]\n" + tomlEnd +
		tomlBegin + "[host.\"http://localhost:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n" + tomlEnd
	if got := all["certs.d/reg.acme.com:5443/hosts.toml"]; got != want {
		t.Errorf("%s", got)
	}
	ghcr := all["certs.d/ghcr.io/hosts.toml"]
	if ours, other := strings.Index(ghcr, "localhost:5000"), strings.Index(ghcr, "mirror.example"); ours < 0 || other < ours {
		t.Errorf("%s", ghcr)
	}
	i := slices.IndexFunc(written, func(w Written) bool { return strings.Contains(w.Path, "ghcr.io") })
	if i < 0 || !slices.Equal(written[i].OtherMirrors, []string{"https://mirror.example"}) {
		t.Errorf("other hosts: %+v", written)
	}
	if _, there := all["certs.d/gone.example/hosts.toml"]; there {
		t.Error("a registry that is gone keeps its file")
	}
}

// TestSetup_Token: a token stands in berth's host table of a file that only root can read,
// in nothing that is shown and in no copy, and a later setup without it keeps it.
func TestSetup_Token(t *testing.T) {
	t.Parallel()
	for client, name := range map[string]string{"docker": "daemon.json", "containerd": "config.toml", "nerdctl": "config.toml", "k3s": "registries.yaml"} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "certs.d/ghcr.io/hosts.toml"), "server = \"https://other\"\n", 0o644)
		o := Options{Listeners: []Listener{tokenPort}, Organisation: "acme", Registries: three, File: filepath.Join(dir, name), Token: secret.New("canary")}
		p := plan(t, client, o)
		for _, f := range p.Files {
			if strings.Contains(f.Content, "canary") || strings.Contains(f.Content, "YWNtZTpjYW5hcnk=") {
				t.Errorf("%s: shown: %s", client, f.Content)
			}
		}
		if _, err := p.Write(now); err != nil {
			t.Fatal(err)
		}
		o.Token = secret.Text{}
		o.Registries = append(slices.Clone(three), Registry{"later.example", "https://later.example"})
		if _, err := plan(t, client, o).Write(now.Add(1)); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for path, content := range files(t, dir) {
			has := strings.Contains(content, "YWNtZTpjYW5hcnk=") || strings.Contains(content, "canary")
			if !has {
				continue
			}
			seen++
			info, err := os.Stat(filepath.Join(dir, path))
			if err != nil || info.Mode().Perm() != 0o600 || strings.Contains(path, ".before-berth-") {
				t.Errorf("%s: %s has the token, and mode %v, %v", client, path, info.Mode(), err)
			}
			top, _, _ := strings.Cut(content, "[host.")
			if client != "k3s" && (strings.Contains(top, "YWNtZ") || strings.Count(content, "YWNtZ") != 1) {
				t.Errorf("%s: it goes to the registry too: %s", client, content)
			}
		}
		if want := map[bool]int{true: 1, false: 4}[client == "k3s"]; seen != want {
			t.Errorf("%s: %d files have the token: %v", client, seen, files(t, dir))
		}
	}
	o := Options{Listeners: []Listener{tokenPort}, Organisation: "acme", Token: secret.New("canary")}
	for client, listeners := range map[string][]Listener{
		"podman": {tokenPort}, "buildkit": {tokenPort}, // there is no place for it
		"docker":     {{Address: "10.0.0.7:5443", TLS: true, Token: true}}, // it is good on the node only
		"containerd": {{Address: "localhost:5000", Loopback: true, Organisation: "acme"}},
	} {
		o.Listeners = listeners
		if p, err := For(client, o); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %+v, %v", client, p, err)
		}
	}
}

// TestSetup_Refuses: a file that cannot be added to, or that is none, is left alone, and so
// are all others of the client.
func TestSetup_Refuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"no TOML":  func(dir string) error { return os.WriteFile(dir+"/certs.d/ghcr.io/hosts.toml", []byte("= ="), 0o600) },
		"no JSON":  func(dir string) error { return os.WriteFile(dir+"/daemon.json", []byte("{"), 0o600) },
		"a link":   func(dir string) error { return os.Symlink(dir+"/elsewhere", dir+"/certs.d/ghcr.io/hosts.toml") },
		"a folder": func(dir string) error { return os.Mkdir(dir+"/daemon.json", 0o700) },
		"too large": func(dir string) error {
			return os.WriteFile(dir+"/certs.d/ghcr.io/hosts.toml", make([]byte, maxFile+1), 0o600)
		},
	} {
		dir := t.TempDir()
		put(t, dir+"/elsewhere", "x = 1\n", 0o600)
		put(t, dir+"/certs.d/ghcr.io/keep", "", 0o600)
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		before := files(t, dir)
		w, err := plan(t, "docker", Options{Listeners: []Listener{openPort}, Registries: three, File: dir + "/daemon.json"}).Write(now)
		if err == nil {
			t.Errorf("%s: %+v", name, w)
		}
		after := files(t, dir)
		if len(after) != len(before) || after["elsewhere"] != "x = 1\n" {
			t.Errorf("%s: something was written: %v", name, after)
		}
	}
}
