package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/admin"
	"berth/internal/hung"
	"berth/internal/nodetest"
	"berth/internal/ocitest"
)

// stage is a home whose main file the test writes by itself, with drop-ins and
// the commands' socket.
type stage struct {
	*home

	registry *ocitest.Registry
	image    ocitest.Pushed
	hung     *hung.Table // of the nodes; may be nil
}

// newStage has a registry with one private image of acme's and one that globex
// may pull too, and drop-ins for both.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{home: newHome(t)}
	s.registry = ocitest.New(t, ocitest.Options{Private: true, Auth: ocitest.Bearer, Now: s.clock.now, TokenTTL: 24 * time.Hour})
	s.image = s.registry.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{10_000, 20_000}})
	s.registry.AddUser("acme-bot", "acme-secret", "acme/**")
	s.registry.AddUser("globex-bot", "globex-secret", "acme/**")
	for _, name := range []string{"organisations.d/acme", "organisations.d/globex"} {
		if err := os.MkdirAll(filepath.Join(s.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.main("")
	s.dropIn("acme")
	s.dropIn("globex")
	return s
}

// save writes the main file as it is given.
func (s *stage) save(text string) {
	s.t.Helper()
	s.write(s.path("berth.yaml"), text)
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// main writes the main file: what every test needs, and more.
func (s *stage) main(more string) {
	s.t.Helper()
	s.save(fmt.Sprintf(`listeners:
  - {address: "127.0.0.1:0", callers: token}
  - {address: "127.0.0.1:0", callers: open}
registries:
  ghcr.io: {endpoint: %q}
cache: {directory: %q, max_size: 1GiB, min_free: 1MB}
admin: {address: "127.0.0.1:0", socket: %q}
log: {level: debug, format: json}
%s`, s.registry.URL(), s.cacheDir(), s.path("admin.sock"), more))
}

// dropIn writes an organisation's file as a control plane does: beside, and then
// renamed. More are lines of it. It gives the hash.
func (s *stage) dropIn(name string, more ...string) (hash string) {
	s.t.Helper()
	s.write(s.path("organisations.d/"+name+"/token"), name+"-secret\n")
	return s.put("organisations.d/"+name+".yaml", fmt.Sprintf(`tokens: [{name: only, sha256: %x}]
credentials: [{name: ci, registry: ghcr.io, username: %s-bot, password_file: %s/token}]
%s`, sha256.Sum256([]byte(s.token(name))), name, name, strings.Join(more, "\n")))
}

// put replaces a file by renaming another.
func (s *stage) put(name, text string) (hash string) {
	s.t.Helper()
	s.write(s.path("new"), text)
	if err := os.Rename(s.path("new"), s.path(name)); err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

func (s *stage) remove(name string) {
	s.t.Helper()
	if err := os.Remove(s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) token(organisation string) string { return "door of " + organisation }

// serve starts a node in this process.
func (s *stage) serve() *running {
	s.t.Helper()
	return s.serveWith(2)
}

func (s *stage) serveWith(listeners int) *running {
	s.t.Helper()
	n := &running{t: s.t, log: nodetest.NewLog(), clients: s.transport, hung: s.hung, ended: make(chan struct{})}
	n.inside([]string{"serve", "--config", s.path("berth.yaml")}, s.clock)
	s.t.Cleanup(n.stop)
	n.awaitAddresses(listeners)
	return n
}

// run starts a node as a program, as home.run does.
func (s *stage) run(env ...string) *running {
	s.t.Helper()
	path, err := exec.LookPath("berth")
	if err != nil {
		s.t.Fatal(err)
	}
	n := &running{t: s.t, log: nodetest.NewLog(), clients: s.transport, ended: make(chan struct{})}
	cmd := exec.Command(path, "serve", "--config", s.path("berth.yaml"))
	cmd.Env = append(os.Environ(), env...)
	n.outside(cmd)
	s.t.Cleanup(n.stop)
	n.awaitAddresses(2)
	return n
}

// caller is a client that logs in.
func (s *stage) caller(n *running, user string) *client {
	s.t.Helper()
	organisation, _, _ := strings.Cut(user, "+")
	c := s.client(n.doors[tokenDoor])
	c.user, c.password = user, s.token(organisation)
	return c
}

// said is what a command answered.
type said struct {
	code     int
	out, err string
}

// command runs berth as a person would, with the node's configuration.
func (s *stage) command(args ...string) said {
	s.t.Helper()
	if args[0] == "check" && os.Geteuid() == 0 { // else as a user berth, who cannot read the folders of tests
		args = append(args, "--user", "root")
	}
	var out, err bytes.Buffer
	code := (&options{}).run(s.t.Context(), append(args, "--config", s.path("berth.yaml")), &out, &err)
	return said{code, out.String(), err.String()}
}

// reload has the configuration read again and wants the command to end with code.
func (s *stage) reload(code int) admin.Reload {
	s.t.Helper()
	got := s.command("reload", "--json", "--socket", s.path("admin.sock"))
	if got.code != code {
		s.t.Errorf("berth reload ended with %d, want %d: %s%s", got.code, code, got.out, got.err)
	}
	var r admin.Reload
	if err := json.Unmarshal([]byte(got.out), &r); err != nil {
		s.t.Fatalf("%v: %s%s", err, got.out, got.err)
	}
	return r
}

// wants checks what became of one organisation's file.
func wants(t *testing.T, r admin.Reload, organisation string, state admin.State, hash, problem string) {
	t.Helper()
	i := slices.IndexFunc(r.Organisations, func(f admin.File) bool { return f.Organisation == organisation })
	if i < 0 && state == admin.Removed {
		return // whoever watches the folder was faster
	}
	if i < 0 {
		t.Errorf("nothing about %s: %+v", organisation, r)
		return
	}
	f := r.Organisations[i]
	if f.State != state || f.SHA256 != hash || !strings.Contains(strings.Join(f.Errors, "\n"), problem) || (problem == "") != (len(f.Errors) == 0) {
		t.Errorf("%+v, want %s, %s, %q", f, state, hash, problem)
	}
	if !strings.HasSuffix(f.Path, "organisations.d/"+organisation+".yaml") {
		t.Errorf("the file of %s is %q", organisation, f.Path)
	}
}

// await asks until the answer is status, for changes that nobody announces.
func (c *client) await(path string, status int) answer {
	c.t.Helper()
	ctx := soon(c.t)
	for {
		a := c.get(path)
		if a.status == status {
			return a
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s\nnever became %d", a, status)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

const (
	app      = "ghcr.io/acme/app"
	manifest = "/v2/" + app + "/manifests/1"
)

func (s *stage) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// sample is the value of a series.
func (n *running) sample(series string) float64 {
	n.t.Helper()
	for line := range strings.Lines(n.metrics()) {
		var value float64
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				n.t.Fatal(err)
			}
			return value
		}
	}
	return -1
}

func (s *stage) metric(n *running, series string, want float64) {
	s.t.Helper()
	if got := n.sample(series); got != want {
		s.t.Errorf("%s is %v, want %v", series, got, want)
	}
}

// dropIn2 is dropIn for an organisation that uses acme's account.
func (s *stage) dropIn2(name string) {
	s.t.Helper()
	if err := os.MkdirAll(s.path("organisations.d/"+name), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.dropIn(name)
	s.registry.AddUser(name+"-bot", name+"-secret", "acme/**")
}
