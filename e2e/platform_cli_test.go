//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dockerCLI is the docker command of the distribution, which has BuildKit's
// client in it. One elsewhere in PATH may need a plugin for that.
var dockerCLI = program{"docker", false}

// shell is the docker command of somebody with a config.json of his own.
type shell struct {
	docker
	path, home string
}

func (d docker) as(t *testing.T) shell {
	t.Helper()
	path, err := exec.LookPath("/usr/bin/docker")
	if err != nil {
		path = dockerCLI.find(t)
	}
	return shell{d, path, tempDir(t, "cli")}
}

func (s shell) run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.path, args...)
	cmd.Env = environment(s.home, "DOCKER_HOST=unix://"+s.socket, "DOCKER_CONFIG="+s.home, "DOCKER_BUILDKIT=1")
	cmd.Dir = s.home
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (s shell) login(t *testing.T, host string, as login) {
	t.Helper()
	if _, err := s.run(t, as.password, "login", host, "--username", as.user, "--password-stdin"); err != nil {
		t.Fatal(err)
	}
}

// docker login as the README has it, with and without an account, by two
// people at one daemon.
func TestPlatformLogin(t *testing.T) {
	n := newNode(t)
	d := startPlainDocker(t, dockerOld)
	i := pushOwn(t, n.acme, "team/login", "acme")
	for _, user := range []string{"acme", "acme+ci"} {
		s := d.as(t)
		if _, err := s.run(t, "", "pull", n.local("acme", i)); err == nil || !refused.MatchString(err.Error()) {
			t.Errorf("before the login: %v", err)
		}
		s.login(t, n.required, n.as(user))
		out, err := s.run(t, "", "pull", n.local("acme", i))
		if err != nil || !strings.Contains(out, i.digest) {
			t.Errorf("as %s: %v: %s", user, err, out)
		}
	}
	other := d.as(t)
	other.login(t, n.required, n.as("globex"))
	if _, err := other.run(t, "", "pull", n.local("globex", i)); err == nil || !inOrder(err.Error(), []string{"globex", "no account for"}) {
		t.Errorf("as globex: %v", err)
	}
	if _, err := other.run(t, "wrong", "login", n.required, "--username", "acme", "--password-stdin"); err == nil {
		t.Error("acme may log in with a wrong token")
	}
}

// docker build as two organisations: BuildKit takes a base that lies in the
// daemon, whoever pulled it, unless it is told to ask.
func TestPlatformBuild(t *testing.T) {
	n := newNode(t)
	d := startPlainDocker(t, dockerOld)
	both := n.pushBoth(t, "team/base")
	private := pushOwn(t, n.acme, "team/private", "acme")
	shells := map[string]shell{}
	for _, organisation := range []string{"acme", "globex"} {
		s := d.as(t)
		s.login(t, n.required, n.as(organisation))
		s.login(t, n.optional, n.as(organisation))
		shells[organisation] = s
	}
	for _, organisation := range []string{"acme", "globex", "acme"} {
		if owner, err := shells[organisation].build(t, n.local(organisation, both[organisation]), "--pull"); err != nil || owner != organisation {
			t.Errorf("%s builds on %q, %v", organisation, owner, err)
		}
	}
	if owner, err := shells["acme"].build(t, n.shared(private), "--pull"); err != nil || owner != "acme" {
		t.Fatalf("acme builds on %q, %v", owner, err)
	}
	mustPullAs(t, d, n.shared(private), n.as("acme"), private.digest)
	if owner, err := shells["globex"].build(t, n.shared(private)); err != nil || owner != "acme" {
		t.Errorf("without --pull globex builds on %q, %v: then doc/platform.md says too much", owner, err)
	}
	for _, from := range []string{n.shared(private), n.local("globex", private), n.local("acme", private)} {
		if _, err := shells["globex"].build(t, from, "--pull"); err == nil || !refused.MatchString(err.Error()) {
			t.Errorf("globex builds on %s: %v", from, err)
		}
	}
}

// build builds an image on another and says whose that is.
func (s shell) build(t *testing.T, from string, options ...string) (owner string, err error) {
	t.Helper()
	dir := tempDir(t, "build")
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM "+from+"\nLABEL built=here\n")
	tag := "built-" + strings.ToLower(filepath.Base(dir))
	if _, err := s.run(t, "", append(append([]string{"build", "--tag", tag}, options...), dir)...); err != nil {
		return "", err
	}
	return s.owner(t, tag+":latest"), nil
}
