//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// named is a node whose registries have the names of the internet's:
//
//   - ghcr.io, at which only acme has an account, globex.example only globex;
//   - docker.io and reg.example:5443 let in everybody, and take pushes.
type named struct {
	*daemon
	dir, address        string
	ghcr, globex        *upstream
	hub, open           *upstream
	config, etc, secret string
}

// headerToken is one that stands in a client's files.
func headerToken(organisation string) string { return organisation + "-header-0123456789abcdef" }

func newNamed(t *testing.T) *named {
	t.Helper()
	onlyBehindBerth(t)
	n := &named{
		dir: tempDir(t, "named"), address: freeAddress(t), etc: tempDir(t, "etc"),
		ghcr:   startRegistry(t, "ghcr.io", acmeUpstream, acmeHash),
		globex: startRegistry(t, "globex.example", globexUpstream, globexHash),
		hub:    startRegistry(t, "docker.io", login{}, ""),
		open:   startRegistry(t, "reg.example:5443", login{}, ""),
	}
	var text strings.Builder
	fmt.Fprintf(&text, "listeners: [{address: %q, callers: token}]\nregistries:\n", n.address)
	for _, u := range []*upstream{n.ghcr, n.globex, n.hub, n.open} {
		fmt.Fprintf(&text, "  %q: {type: generic, endpoint: %q, allow_private: [127.0.0.0/8]}\n", u.name, "http://"+u.addr)
	}
	text.WriteString("organisations:\n")
	for name, at := range map[string]*upstream{"acme": n.ghcr, "globex": n.globex} {
		secret := writeFile(t, filepath.Join(n.dir, name), at.owner.password+"\n")
		fmt.Fprintf(&text, "  %s:\n    tokens: [{name: in, sha256: %s}, {name: file, sha256: %s, for: header}]\n    credentials: [{name: ci, registry: %q, username: %s, password_file: %q}]\n",
			name, hashOf(callerToken(name)), hashOf(headerToken(name)), at.name, at.owner.user, secret)
	}
	fmt.Fprintf(&text, "cache: {directory: cache, max_size: 1GiB, min_free: 1%%}\nadmin: {address: %q, socket: %q}\nlog: {level: debug}\n", freeAddress(t), filepath.Join(n.dir, "s"))
	n.config = writeFile(t, filepath.Join(n.dir, "berth.yaml"), text.String())
	n.secret = writeFile(t, filepath.Join(n.dir, "token"), headerToken("acme")+"\n")
	path, err := berthBinary()
	must(t, err)
	n.daemon = startDaemon(t, daemonOptions{
		name: "berth", path: path, args: []string{"serve", "--config", n.config}, dir: n.dir,
		ready: answers("http://"+n.address+"/v2/", http.StatusUnauthorized),
	})
	return n
}

// berth runs a command of the node.
func (n *named) berth(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := berthBinary()
	must(t, err)
	return run(t, n.dir, nil, path, append([]string{"--config", n.config}, args...)...)
}

func (n *named) setUp(t *testing.T, args ...string) {
	t.Helper()
	_, err := n.berth(t, append([]string{"setup"}, args...)...)
	must(t, err)
}

// log is what berth wrote.
func (n *named) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(n.logFile())
	must(t, err)
	return string(text)
}

// asked is how many requests came to any registry.
func (n *named) asked() (all int) {
	for _, u := range []*upstream{n.ghcr, n.globex, n.hub, n.open} {
		all += len(u.requests(""))
	}
	return all
}

// fails says that nobody gets an image while berth is down, and that no registry is asked.
func (n *named) fails(t *testing.T, p puller, ref string) {
	t.Helper()
	n.stop(t)
	before := n.asked()
	if _, err := p.pull(t, ref, login{}); err == nil {
		t.Error("it was pulled without berth")
	} else if strings.Contains(err.Error(), "proxyconnect") {
		t.Errorf("it goes around berth: %v", err)
	}
	if n.asked() != before {
		t.Error("a registry was asked around berth")
	}
}

// Images keep their names, and every form of identity says whose pull it is: X-Registry-Auth
// with berth's address, X-Meta-Berth from the CLI's configuration, a token in hosts.toml.
func TestNames_Docker(t *testing.T) {
	n := newNamed(t)
	file := filepath.Join(n.etc, "daemon.json")
	n.setUp(t, "docker", "--org", "acme", "--write", "--file", file)
	d, _ := startDockerWith(t, dockerNew, &world{acme: n.ghcr, globex: n.globex, hub: n.hub, berth: &berth{tokens: n.address, open: n.address}}, etcDocker(n.etc))
	private := pushImage(t, n.ghcr, "acme/app", 64<<10)
	theirs := pushImage(t, n.globex, "globex/app", 64<<10)
	public := pushIndex(t, n.hub, "library/nginx")
	ported := pushImage(t, n.open, "x", 32<<10)

	t.Run("X-Registry-Auth", func(t *testing.T) {
		for ref, want := range map[string]struct {
			as     string
			digest string
		}{
			"ghcr.io/acme/app:1":          {"acme", private.digest},
			"docker.io/library/nginx:1":   {"globex", public.digest},
			"nginx:1":                     {"acme", public.digest},
			"reg.example:5443/x:1":        {"globex", ported.digest},
			"globex.example/globex/app:1": {"globex", theirs.digest},
		} {
			if err := d.createAt(t, ref, n.address, login{want.as, callerToken(want.as)}); err != nil {
				t.Errorf("%s as %s: %v", ref, want.as, err)
			} else if !d.has(t, ref, want.digest) {
				t.Errorf("%s is not %s", ref, want.digest)
			}
		}
		other := pushImage(t, n.ghcr, "acme/other", 4<<10)
		for _, as := range []login{{"globex", callerToken("globex")}, {"acme", "wrong"}, {}, {"acme", callerToken("globex")}} {
			if err := d.createAt(t, ownName(nil, other), n.address, as); err == nil {
				t.Errorf("%s has acme's image", as.user)
			}
		}
		if err := d.createAt(t, ownName(nil, other), "ghcr.io", acmeUpstream); err == nil {
			t.Error("a login for the registry was of use at berth")
		}
	})
	t.Run("X-Meta-Berth", func(t *testing.T) {
		i := pushImage(t, n.ghcr, "acme/meta", 16<<10)
		for organisation, may := range map[string]bool{"globex": false, "acme": true} {
			s := d.as(t)
			writeFile(t, filepath.Join(s.home, "config.json"), fmt.Sprintf(`{"HttpHeaders": {"X-Meta-Berth": "%s:%s"}}`, organisation, headerToken(organisation)))
			_, err := s.run(t, "", "pull", ownName(nil, i))
			if (err == nil) != may {
				t.Errorf("%s: %v", organisation, err)
			}
			if may && !d.has(t, ownName(nil, i), i.digest) {
				t.Error("another image")
			}
		}
	})
	t.Run("hosts.toml", func(t *testing.T) {
		n.setUp(t, "docker", "--org", "acme", "--token-file", n.secret, "--write", "--file", file)
		i := pushImage(t, n.ghcr, "acme/hosts", 16<<10)
		mustPull(t, d, ownName(nil, i), login{}, i.digest)
		must(t, d.createAt(t, "docker.io/library/nginx:1", "", login{}))
		if err := d.createAt(t, ownName(nil, pushImage(t, n.globex, "globex/secret", 4<<10)), "", login{}); err == nil {
			t.Error("acme's node pulls what is globex's")
		}
		if out, err := n.berth(t, "doctor", "docker", "--file", file, "--docker-socket", d.socket); err != nil {
			t.Errorf("doctor: %v\n%s", err, out)
		}
		s := d.as(t)
		built, err := s.run(t, "", "version", "--format", "{{.Server.Version}}")
		must(t, err)
		t.Logf("dockerd %s", strings.TrimSpace(built))
	})
	t.Run("a push goes to the registry", func(t *testing.T) {
		must(t, d.createAt(t, "reg.example:5443/x:1", "", login{}))
		must(t, d.call(t, http.MethodPost, "/images/reg.example:5443/x:1/tag?"+url.Values{"repo": {"reg.example:5443/pushed"}, "tag": {"1"}}.Encode(), nil, nil, nil))
		must(t, d.pushTag(t, "reg.example:5443/pushed", "1"))
		if got := n.open.requests("/v2/pushed/manifests/1"); len(got) == 0 {
			t.Error("the registry has not seen it")
		}
	})
	for _, u := range []*upstream{n.ghcr, n.globex, n.hub, n.open} {
		for _, r := range u.requests("") {
			if strings.Contains(r.shown, headerToken("acme")) || strings.Contains(r.shown, basicOf("acme", headerToken("acme"))) || strings.Contains(r.shown, basicOf("acme", callerToken("acme"))) {
				t.Errorf("%s saw a token of berth's: %s %s", u.name, r.method, r.path)
			}
		}
	}
	n.fails(t, d, ownName(nil, pushImage(t, n.ghcr, "acme/down", 4<<10)))
	log := n.log(t) // all of it, now that berth has ended
	for _, token := range []string{headerToken("acme"), headerToken("globex"), callerToken("acme"), acmeUpstream.password} {
		if strings.Contains(log, token) {
			t.Error("a secret is in the log")
		}
	}
	for _, identity := range []string{"identity=login", "identity=x-meta-berth", "identity=hosts.toml"} {
		if !strings.Contains(log, identity) {
			t.Errorf("the log has no %s", identity)
		}
	}
	if strings.Contains(log, "pushed") {
		t.Error("a push came to berth")
	}
}

// What the Docker CLI does with HttpHeaders: doc/platform tells operators.
func TestNames_HttpHeadersAreShownToRegistries(t *testing.T) {
	n := newNamed(t)
	d, _ := startDockerWith(t, dockerNew, &world{acme: n.ghcr, globex: n.globex, hub: n.hub, berth: &berth{tokens: n.address, open: n.address}}, etcDocker(n.etc))
	pushImage(t, n.open, "x", 4<<10)
	s := d.as(t)
	writeFile(t, filepath.Join(s.home, "config.json"), fmt.Sprintf(`{"HttpHeaders": {"X-Meta-Berth": "acme:%s"}}`, headerToken("acme")))
	name := n.open.addr + "/x:1" // a registry that is not led to berth
	_, err := s.run(t, "", "pull", name)
	must(t, err)
	pulled := len(n.open.requests(""))
	_, err = s.run(t, "", "push", name)
	must(t, err)
	for what, all := range map[string][]request{"a pull": n.open.requests("")[:pulled], "a push": n.open.requests("")[pulled:]} {
		shown := 0
		for _, r := range all {
			if strings.Contains(r.shown, headerToken("acme")) {
				shown++
			}
		}
		t.Logf("%s: %d of %d requests show X-Meta-Berth to the registry", what, shown, len(all))
		if shown == 0 {
			t.Errorf("%s does not show the header: then doc/platform says too much", what)
		}
	}
}

func TestNames_Containerd1(t *testing.T) { testNamesContainerd(t, containerdOne) }
func TestNames_Containerd2(t *testing.T) { testNamesContainerd(t, containerdTwo) }

// containerd with a hosts.toml for each registry: as two organisations by login, as one
// without any by the token in it.
func testNamesContainerd(t *testing.T, v containerdVersion) {
	t.Helper()
	n := newNamed(t)
	c := startContainerd(t, v, &world{acme: n.ghcr, globex: n.globex, hub: n.hub, berth: &berth{tokens: n.address, open: n.address}})
	must(t, os.RemoveAll(c.hosts))
	file := filepath.Join(c.dir, "config.toml")
	n.setUp(t, "containerd", "--org", "acme", "--write", "--file", file)
	private := pushImage(t, n.ghcr, "acme/app", 64<<10)
	mustPull(t, c, "ghcr.io/acme/app:1", login{"acme", callerToken("acme")}, private.digest)
	mustPull(t, c, "docker.io/library/nginx:1", login{"globex", callerToken("globex")}, pushIndex(t, n.hub, "library/nginx").digest)
	mustPull(t, c, "reg.example:5443/x:1", login{"globex", callerToken("globex")}, pushImage(t, n.open, "x", 4<<10).digest)
	mustRefuse(t, c, ownName(nil, pushImage(t, n.ghcr, "acme/secret", 4<<10)), login{"globex", callerToken("globex")}, anything)
	// A pull secret is for the registry, and berth does not take it.
	mustRefuse(t, c, ownName(nil, pushImage(t, n.ghcr, "acme/pullsecret", 4<<10)), login{"acme-bot", "ghp_0123456789"}, anything)
	n.setUp(t, "containerd", "--org", "acme", "--token-file", n.secret, "--write", "--file", file)
	i := pushImage(t, n.ghcr, "acme/header", 16<<10)
	mustPull(t, c, ownName(nil, i), login{}, i.digest)
	_, err := run(t, c.dir, nil, c.ctr, "--address", c.socket, "images", "tag", ownName(nil, i), "reg.example:5443/pushed:1")
	must(t, err)
	_, err = run(t, c.dir, nil, c.ctr, "--address", c.socket, "images", "push", "--hosts-dir", c.hosts, "reg.example:5443/pushed:1")
	must(t, err)
	if len(n.open.requests("/v2/pushed/")) == 0 {
		t.Error("the push did not go to the registry")
	}
	for _, r := range n.open.requests("") {
		if strings.Contains(r.shown, basicOf("acme", headerToken("acme"))) {
			t.Errorf("the registry saw the node's token: %s %s", r.method, r.path)
		}
	}
	n.fails(t, c, ownName(nil, pushImage(t, n.ghcr, "acme/down", 4<<10)))
	log := n.log(t) // all of it, now that berth has ended
	if !strings.Contains(log, "this is a login for a registry") || strings.Contains(log, "ghp_") || strings.Contains(log, "pushed") {
		t.Error("a pull secret is not told apart, or in the log, or a push came to berth")
	}
	n.setUp(t, "containerd", "--org", "acme", "--undo", "--file", file)
	if left, _ := filepath.Glob(filepath.Join(c.hosts, "*")); len(left) > 0 {
		t.Errorf("undoing leaves %v", left)
	}
}

// podman: names are moved to berth, and its login says who it is.
func TestNames_Podman(t *testing.T) {
	n := newNamed(t)
	var last podmanClient
	for organisation, i := range map[string]image{"acme": pushImage(t, n.ghcr, "acme/app", 64<<10), "globex": pushImage(t, n.globex, "globex/app", 64<<10)} {
		c := startPodman(t)
		last = c
		n.setUp(t, "podman", "--org", organisation, "--write", "--file", filepath.Join(c.dir, "registries.conf.d/berth.conf"))
		must(t, os.Rename(filepath.Join(c.dir, "registries.conf.d/berth.conf"), filepath.Join(c.dir, "registries.conf")))
		dockerConfig(t, c.dir, n.address, login{organisation, callerToken(organisation)})
		mustPull(t, c, ownName(nil, i), login{}, i.digest)
		mustPull(t, c, "docker.io/library/nginx:1", login{}, pushIndex(t, n.hub, "library/nginx").digest)
		mustPull(t, c, "reg.example:5443/x:1", login{}, pushImage(t, n.open, "x", 4<<10).digest)
		if organisation == "globex" {
			mustRefuse(t, c, ownName(nil, pushImage(t, n.ghcr, "acme/secret", 4<<10)), login{}, anything)
		}
		to := "reg.example:5443/pushed-" + organisation + ":1"
		_, err := c.podmanIn(t, n.leadsTo(n.open), "push", "--tls-verify=false", "--signature-policy", filepath.Join(c.dir, "policy.json"), "reg.example:5443/x:1", to)
		must(t, err)
		if len(n.open.requests("/v2/pushed-"+organisation+"/manifests/1")) == 0 {
			t.Error("the registry has not seen the push")
		}
	}
	conf := filepath.Join(last.dir, "registries.conf")
	down := ownName(nil, pushImage(t, n.ghcr, "acme/down", 4<<10))
	n.setUp(t, "podman", "--undo", "--file", conf)
	must(t, os.WriteFile(conf, nil, 0o600)) // it was berth's alone, and podman wants one
	if _, err := last.pull(t, down, login{}); err == nil || !strings.Contains(err.Error(), "proxyconnect") {
		t.Errorf("undone, and it still goes to berth: %v", err)
	}
	n.setUp(t, "podman", "--org", "acme", "--write", "--file", conf)
	n.fails(t, last, down)
	if strings.Contains(n.log(t), "pushed") {
		t.Error("a push came to berth")
	}
}

// Docker 20.10 reads no hosts.toml: doctor says so, its mirror of Docker Hub is found, and
// names of berth's work.
func TestNames_OldDocker(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	d, _ := startDockerWith(t, dockerOld, w, nil, "--registry-mirror", "http://"+w.berth.open)
	file := filepath.Join(tempDir(t, "etc"), "daemon.json")
	w.berth.setUp(t, "docker", "--write", "--file", file)
	path, err := berthBinary()
	must(t, err)
	out, err := run(t, w.berth.dir, nil, path, "--config", w.berth.config(), "doctor", "docker", "--file", file, "--docker-socket", d.socket, "--json")
	if err == nil {
		t.Error("doctor finds nothing")
	}
	var report struct {
		Clients []struct {
			Version, Store string
			Registries     []struct{ Registry, Through string }
			Findings       []struct {
				Problem, Message, Cure string
				Registries             []string
			}
		}
	}
	must(t, json.Unmarshal([]byte(out), &report))
	c := report.Clients[0]
	if !strings.HasPrefix(c.Version, "20.10") || len(c.Findings) != 1 || c.Findings[0].Problem != "old_daemon" {
		t.Fatalf("%s", out)
	}
	t.Logf("%s: %s", c.Findings[0].Message, c.Findings[0].Cure)
	for _, r := range c.Registries {
		if led := r.Through != ""; led != (r.Registry == "docker.io") {
			t.Errorf("%+v", r)
		}
	}
	mustPull(t, d, "greeting:1", login{}, pushIndex(t, w.hub, "library/greeting").digest)
	i := pushImage(t, w.acme, "team/byname", 4<<10)
	mustPull(t, d, w.ref(i), w.as("acme"), i.digest)
}

// What dFlow and Dokku do at a deploy: remove the image, log in at the registry, pull, and
// build on it; on a node of one organisation as they are, and with a DOCKER_CONFIG for each
// of two apps.
func TestNames_DFlow(t *testing.T) {
	n := newNamed(t)
	file := filepath.Join(n.etc, "daemon.json")
	n.setUp(t, "docker", "--org", "acme", "--token-file", n.secret, "--write", "--file", file)
	d, _ := startDockerWith(t, dockerNew, &world{acme: n.ghcr, globex: n.globex, hub: n.hub, berth: &berth{tokens: n.address, open: n.address}}, etcDocker(n.etc))
	i := pushImage(t, n.ghcr, "acme/app", 32<<10)
	deploy := func(s shell, ref, digest string) {
		t.Helper()
		_, _ = s.run(t, "", "image", "rm", ref, "--force")
		_, err := s.run(t, "", "pull", ref)
		must(t, err)
		if !d.has(t, ref, digest) {
			t.Errorf("%s is not %s", ref, digest)
		}
		dir := tempDir(t, "app")
		writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM "+ref+"\nLABEL app=here\n")
		_, err = s.run(t, "", "build", "--pull", "--tag", "dokku/app:latest", dir)
		must(t, err)
	}
	server := d.as(t)
	server.login(t, n.ghcr.addr, acmeUpstream) // registry:login goes to the registry itself
	deploy(server, ownName(nil, i), i.digest)
	deploy(server, ownName(nil, i), i.digest) // a redeploy

	n.setUp(t, "docker", "--org", "acme", "--undo", "--file", file)
	n.setUp(t, "docker", "--org", "acme", "--write", "--file", file)
	theirs := pushImage(t, n.globex, "globex/app", 32<<10)
	for organisation, app := range map[string]image{"acme": i, "globex": theirs} {
		behind, headers := d.as(t), d.as(t)
		behind.login(t, n.address, login{organisation + "+ci", callerToken(organisation)})
		deploy(behind, n.address+"/"+organisation+"/"+ownName(nil, app), app.digest)
		writeFile(t, filepath.Join(headers.home, "config.json"), fmt.Sprintf(`{"HttpHeaders": {"X-Meta-Berth": "%s+ci:%s"}}`, organisation, headerToken(organisation)))
		_, _ = headers.run(t, "", "image", "rm", ownName(nil, app), "--force")
		_, err := headers.run(t, "", "pull", ownName(nil, app))
		must(t, err)
		other := map[string]image{"acme": theirs, "globex": i}[organisation]
		if _, err := headers.run(t, "", "pull", ownName(nil, other)); err == nil {
			t.Errorf("%s pulls %s", organisation, ownName(nil, other))
		}
	}
}
