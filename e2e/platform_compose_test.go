//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var composeProgram = program{"docker-compose", true}

// compose runs Compose v2 on a project of one service, with the docker command's
// logins.
func (s shell) compose(t *testing.T, project, image string, args ...string) error {
	t.Helper()
	file := filepath.Join(tempDir(t, "compose"), "compose.yaml")
	// Without a network of its own: the daemon has no bridge.
	writeFile(t, file, "services:\n  app:\n    image: "+image+"\n    pull_policy: always\n    container_name: "+project+"\n    network_mode: none\n    command: [/owner]\n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, composeProgram.find(t), append([]string{"--project-name", project, "--file", file, "--progress", "plain"}, args...)...)
	cmd.Env = environment(s.home, "DOCKER_HOST=unix://"+s.socket, "DOCKER_CONFIG="+s.home)
	cmd.WaitDelay = 5 * time.Second
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Run(); err != nil {
		return errors.New(strings.TrimSpace(text.String()) + ": " + err.Error())
	}
	return nil
}

// Compose as two organisations at one daemon, each with a login of its own.
func TestPlatformCompose(t *testing.T) {
	n := newNode(t)
	d := startPlainDocker(t, dockerOld)
	both := n.pushBoth(t, "team/composed")
	shells := map[string]shell{}
	for _, organisation := range []string{"acme", "globex"} {
		s := d.as(t)
		s.login(t, n.required, n.as(organisation))
		shells[organisation] = s
	}
	for _, organisation := range []string{"acme", "globex"} {
		if err := shells[organisation].compose(t, organisation, n.local(organisation, both[organisation]), "create"); err != nil {
			t.Fatalf("%s: %v", organisation, err)
		}
		if owner := d.ownerIn(t, organisation); owner != organisation {
			t.Errorf("%s runs the image of %q", organisation, owner)
		}
	}
	private := pushOwn(t, n.acme, "team/private", "acme")
	if err := shells["acme"].compose(t, "private", n.local("acme", private), "create"); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{n.local("acme", private), n.local("globex", private)} {
		err := shells["globex"].compose(t, "thief", image, "create")
		if err == nil || !strings.Contains(err.Error(), "organisation globex") {
			t.Errorf("globex composes with %s: %v", image, err)
		}
	}
	if err := shells["globex"].compose(t, "pulls", n.local("globex", private), "pull"); err == nil || !strings.Contains(err.Error(), "no account for") {
		t.Errorf("docker compose pull as globex: %v", err)
	}
	if _, err := d.send(t.Context(), "GET", "/containers/thief/json", nil, nil); err == nil {
		t.Error("globex has a container")
	}
}
