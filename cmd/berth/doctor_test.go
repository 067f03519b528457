package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/admin"
	"berth/internal/doctor"
	"berth/internal/nodetest"
	"berth/internal/ocitest"
)

// patients are a client's files in a folder, and a node that is asked about them.
type patients struct {
	*home

	n    *running
	file string // docker's
	sock string
}

// berth runs a command of the program with the home's configuration.
func (p *patients) berth(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	code := new(options).run(t.Context(), append([]string{"--config", filepath.Join(p.dir, "berth.yaml")}, args...), &out, &errs)
	return out.String() + errs.String(), code
}

// look is what doctor says of docker.
func (p *patients) look(t *testing.T, more ...string) doctor.Client {
	t.Helper()
	out, code := p.berth(t, append([]string{"doctor", "docker", "--json", "--file", p.file, "--docker-socket", p.sock}, more...)...)
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Clients) != 1 {
		t.Fatalf("%v in %s", err, out)
	}
	if c := r.Clients[0]; (code == 0) != (len(c.Findings) == 0) || code > 1 {
		t.Errorf("exit code %d with %+v", code, c.Findings)
	}
	return r.Clients[0]
}

func (p *patients) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(p.dir, "etc", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	p.home.write(path, text)
}

// engine answers as a dockerd of this version and store, which pulls as pull does.
func engine(t *testing.T, version, driverType string, pull ...func(image, tag string) error) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dr") //nolint:usetesting // the name of a socket has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/images/create") && len(pull) > 0 {
			_ = json.NewEncoder(w).Encode(map[string]string{"error": fmt.Sprint(pull[0](r.URL.Query().Get("fromImage"), r.URL.Query().Get("tag")))})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ServerVersion": version, "Driver": "overlay", "DriverStatus": [][2]string{{"driver-type", driverType}}})
	})}}
	s.Start()
	t.Cleanup(s.Close)
	return filepath.Join(dir, "s")
}

const containerdStore = "io.containerd.snapshotter.v1"

// newPatients is a node with a port for each purpose, all of them running.
func newPatients(t *testing.T, listener, more string) *patients {
	t.Helper()
	h := newHome(t)
	h.listeners = []string{listener}
	h.registries = []string{`reg.example:5443: {endpoint: "https://reg.example:5443"}`}
	h.tenant("acme").header = "header-token-of-acme"
	h.socket = filepath.Join(t.TempDir(), "s")
	p := &patients{home: h, file: filepath.Join(h.dir, "etc", "daemon.json"), sock: engine(t, "29.1.0", containerdStore)}
	h.more = more
	nodetest.Certificate(t, h.dir, "tls")
	p.n = h.run()
	return p
}

// TestDoctor_FindsAndCures: ten mistakes, each found by its name, and gone after what
// doctor says was done.
func TestDoctor_FindsAndCures(t *testing.T) {
	t.Parallel()
	const open = `{address: "127.0.0.1:0", callers: open}`
	for name, c := range map[string]struct {
		listener string
		more     string // of the configuration
		spoil    func(t *testing.T, p *patients, door string)
		problem  doctor.Problem
		cure     func(t *testing.T, p *patients, f doctor.Finding) // nil: f.Run
	}{
		"bypass: nothing is written": {problem: doctor.Bypass, spoil: func(*testing.T, *patients, string) {}},
		"bypass: another host may be pulled from": {problem: doctor.Bypass, spoil: func(t *testing.T, p *patients, door string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/quay.io/hosts.toml", "server = \"https://quay.io\"\n[host.\""+door+"\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
		}},
		"wrong mirror": {problem: doctor.WrongMirror, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/quay.io/hosts.toml", "server = \"https://mirror.example\"\n")
		}},
		"_default without ours": {problem: doctor.Default, more: "unlisted_registries: public\n", spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/_default/hosts.toml", "server = \"https://mirror.example\"\n")
		}},
		"_default that leads all here, where not all are known": {problem: doctor.Default, spoil: func(t *testing.T, p *patients, door string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/_default/hosts.toml", "server = \""+door+"\"\n")
		}},
		"TLS": {problem: doctor.TLS, listener: `{address: "127.0.0.1:0", callers: open, tls: {cert_file: tls.crt, key_file: tls.key}}`, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
		}, cure: func(t *testing.T, p *patients, f doctor.Finding) {
			if !strings.Contains(f.Cure, `ca = "`) {
				t.Errorf("%+v", f)
			}
			files, _ := filepath.Glob(filepath.Join(p.dir, "etc/certs.d/*/hosts.toml"))
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				p.home.write(file, strings.Replace(string(text), "[\"pull\", \"resolve\"]", "[\"pull\", \"resolve\"]\nca = \""+filepath.Join(p.dir, "tls.crt")+"\"", 1))
			}
		}},
		"port": {problem: doctor.Port, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/ghcr.io/hosts.toml", "server = \"http://localhost:1\"\n")
		}},
		"scheme": {problem: doctor.Scheme, spoil: func(t *testing.T, p *patients, door string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/ghcr.io/hosts.toml", "server = \""+strings.Replace(door, "http:", "https:", 1)+"\"\n")
		}},
		"missing token": {problem: doctor.MissingToken, listener: `{address: "127.0.0.1:0", callers: token}`, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--org", "acme", "--write", "--file", p.file)
			p.home.write(filepath.Join(p.dir, "token"), "header-token-of-acme\n")
		}},
		"unreadable file": {problem: doctor.Unreadable, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/ghcr.io/hosts.toml", "server = \n")
		}},
		"push caught": {problem: doctor.PushCaught, spoil: func(t *testing.T, p *patients, door string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.write(t, "certs.d/ghcr.io/hosts.toml", "server = \""+door+"\"\n\n[host.\""+door+"\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
		}},
		"exposed token": {problem: doctor.ExposedToken, listener: `{address: "127.0.0.1:0", callers: token}`, spoil: func(t *testing.T, p *patients, _ string) {
			p.home.write(filepath.Join(p.dir, "token"), "header-token-of-acme\n")
			p.berth(t, "setup", "docker", "--org", "acme", "--token-file", filepath.Join(p.dir, "token"), "--write", "--file", p.file)
			if err := os.Chmod(filepath.Join(p.dir, "etc/certs.d/ghcr.io/hosts.toml"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		"old daemon": {problem: doctor.OldDaemon, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.sock = engine(t, "20.10.24", "")
		}, cure: func(t *testing.T, p *patients, _ doctor.Finding) { p.sock = engine(t, "29.1.0", containerdStore) }},
		"an old store of a new daemon": {problem: doctor.OldDaemon, spoil: func(t *testing.T, p *patients, _ string) {
			p.berth(t, "setup", "docker", "--write", "--file", p.file)
			p.sock = engine(t, "28.5.0", "")
		}, cure: func(t *testing.T, p *patients, _ doctor.Finding) { p.sock = engine(t, "28.5.0", containerdStore) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener := c.listener
			if listener == "" {
				listener = open
			}
			p := newPatients(t, listener, c.more)
			c.spoil(t, p, p.n.doors[0])
			found := p.look(t)
			i := slices.IndexFunc(found.Findings, func(f doctor.Finding) bool { return f.Problem == c.problem })
			if i < 0 {
				t.Fatalf("not found: %+v", found.Findings)
			}
			f := found.Findings[i]
			if f.Cure == "" || strings.Contains(f.Message+f.Cure+f.Run, "header-token") {
				t.Errorf("%+v", f)
			}
			if c.cure != nil {
				c.cure(t, p, f)
			} else {
				script := strings.ReplaceAll(f.Run, "token-file FILE", "token-file "+filepath.Join(p.dir, "token"))
				if out, err := exec.CommandContext(t.Context(), "sh", "-euc", script).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", script, err, out)
				}
			}
			cured := p.look(t)
			if len(cured.Findings) > 0 {
				t.Errorf("after %q: %+v", f.Run, cured.Findings)
			}
			for _, way := range cured.Ways {
				if way.Through == "" || len(way.Around) > 0 || strings.Contains(way.Push, "127.0.0.1") {
					t.Errorf("%+v", way)
				}
			}
		})
	}
}

// TestDoctor_EveryClient: where nothing is written a client goes around berth; after what
// doctor says was done it does not, and a file that cannot be read is found.
func TestDoctor_EveryClient(t *testing.T) {
	t.Parallel()
	p := newPatients(t, `{address: "127.0.0.1:0", callers: open}`, "")
	for client, name := range map[string]string{
		"containerd": "config.toml", "nerdctl": "config.toml", "podman": "registries.conf.d/berth.conf",
		"crio": "registries.conf.d/berth.conf", "buildkit": "buildkitd.toml", "k3s": "registries.yaml",
	} {
		file := filepath.Join(t.TempDir(), name)
		look := func() doctor.Client {
			out, _ := p.berth(t, "doctor", client, "--json", "--file", file)
			var r doctor.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Clients) != 1 {
				t.Fatalf("%v in %s", err, out)
			}
			return r.Clients[0]
		}
		before := look()
		i := slices.IndexFunc(before.Findings, func(f doctor.Finding) bool { return f.Problem == doctor.Bypass && len(f.Registries) > 0 })
		if i < 0 {
			t.Errorf("%s: %+v", client, before.Findings)
			continue
		}
		if out, err := exec.CommandContext(t.Context(), "sh", "-euc", before.Findings[i].Run).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", before.Findings[i].Run, err, out)
		}
		after := look()
		if len(after.Findings) > 0 {
			t.Errorf("%s: %+v", client, after.Findings)
		}
		for _, way := range after.Ways {
			if way.Through != p.n.doors[0] || way.Who != "nobody: public images only" || strings.Contains(way.Push, p.n.doors[0]) {
				t.Errorf("%s: %+v", client, way)
			}
		}
		if client != "nerdctl" {
			p.home.write(file, "= [")
			if spoiled := look(); len(spoiled.Findings) != 1 || spoiled.Findings[0].Problem != doctor.Unreadable {
				t.Errorf("%s: %+v", client, spoiled.Findings)
			}
		}
	}
	if out, code := p.berth(t, "doctor", "rkt"); code != exitUsage || !strings.Contains(out, "choose one of") {
		t.Errorf("%d: %s", code, out)
	}
}

// TestDoctor_BypassIsTold: where the pull that a client was made to try never comes, the
// node itself says so from then on, until one comes.
func TestDoctor_BypassIsTold(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	up, own := ocitest.New(t, ocitest.Options{}), ocitest.New(t, ocitest.Options{TLS: true})
	up.AddRepo("team/app")
	h.listeners = []string{`{address: "127.0.0.1:0", callers: open}`}
	h.registry("reg.example", up)
	h.registry("other.example", up)
	h.tenant("acme").more = fmt.Sprintf("registries: {own.example: {endpoint: %q, allow_private: [127.0.0.0/8]}}", own.URL())
	h.more = "organisation_registries: {allow: true, allow_private: [127.0.0.0/8]}\n"
	h.socket = filepath.Join(t.TempDir(), "s")
	p := &patients{home: h, file: filepath.Join(h.dir, "etc", "daemon.json")}
	n := h.run()
	p.n = n
	p.berth(t, "setup", "docker", "--write", "--file", p.file)
	around := engine(t, "29.1.0", containerdStore, func(string, string) error { return errors.New("manifest unknown") })
	through := engine(t, "29.1.0", containerdStore, func(image, tag string) error {
		host, repo, _ := strings.Cut(image, "/")
		resp, err := http.Get(n.doors[0] + "/v2/" + repo + "/manifests/" + tag + "?ns=" + host)
		if err == nil {
			err = errors.New(resp.Status)
			_ = resp.Body.Close()
		}
		return err
	})
	const series, note = `berth_client_bypass{client="docker",registry="reg.example"}`, "docker goes around this node for reg.example"
	for _, step := range []struct {
		name, sock   string
		problem      bool
		value        float64
		inTheCommand bool
	}{
		{"no canary so far", "", false, -1, false},
		{"it goes around", around, true, 1, true},
		{"it does not run", filepath.Join(h.dir, "none"), false, 1, true},
		{"it comes", through, false, 0, false},
		{"it goes around again", around, true, 1, true},
	} {
		var args []string
		if p.sock = step.sock; step.sock == "" {
			p.sock = through
		} else {
			args = []string{"--canary", "reg.example/team/app"}
		}
		found := p.look(t, args...)
		if has := slices.ContainsFunc(found.Findings, func(f doctor.Finding) bool { return f.Problem == doctor.Bypass }); has != step.problem {
			t.Errorf("%s: %+v", step.name, found.Findings)
		}
		if got := n.sample(series); got != step.value {
			t.Errorf("%s: %s is %v, want %v", step.name, series, got, step.value)
		}
		resp, err := http.Get(n.admin + "/")
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		status, _ := p.berth(t, "status")
		if err != nil || strings.Contains(string(page), note) != step.inTheCommand || strings.Contains(status, note) != step.inTheCommand {
			t.Errorf("%s: %v, the page has it: %v, the status: %s", step.name, err, strings.Contains(string(page), note), status)
		}
	}
	client := admin.NewClient(h.socket)
	defer client.Close()
	for _, bad := range []admin.CanaryRequest{{Client: "docker", Registry: "nowhere.example", Tag: "x"}, {Registry: "reg.example", Tag: "x"}, {Client: "docker", Registry: "reg.example"}} {
		if _, err := client.Canary(t.Context(), bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := client.Canary(t.Context(), admin.CanaryRequest{Client: "podman", Registry: "own.example", Tag: "x"}); err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(n.admin + "/"); err != nil {
		t.Error(err)
	} else {
		page, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if strings.Contains(string(page), "own.example") {
			t.Error("a page that anybody on the node reads names an organisation's own registry")
		}
	}
	h.registries = h.registries[1:]
	h.config()
	if out, code := p.berth(t, "reload"); code != 0 {
		t.Fatal(out)
	}
	if got := n.sample(series); got != -1 {
		t.Errorf("the registry is gone, and %s is %v", series, got)
	}
}
