//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// craneClient is Google's crane. It tries https on the port first, as does everybody.
type craneClient struct{ path string }

func TestCrane(t *testing.T) {
	testPuller(t, (*world).ref, func(t *testing.T, _ *world) puller { return craneClient{craneProgram.find(t)} })
}

func (c craneClient) explains() bool { return true }

func (c craneClient) pull(t *testing.T, ref string, as login) ([]string, error) {
	t.Helper()
	dir := tempDir(t, "crane")
	dockerConfig(t, dir, ref, as)
	env := []string{"DOCKER_CONFIG=" + dir}
	if _, err := run(t, dir, env, c.path, "pull", "--platform", platform, ref, filepath.Join(dir, "image.tar")); err != nil {
		return nil, err
	}
	if _, err := run(t, dir, env, c.path, "validate", "--platform", platform, "--remote", ref); err != nil {
		return nil, err
	}
	digest, err := run(t, dir, env, c.path, "digest", ref)
	return []string{strings.TrimSpace(digest)}, err
}

// dockerConfig writes a config.json with a login for the host of an image.
func dockerConfig(t *testing.T, dir, ref string, as login) string {
	t.Helper()
	auths := map[string]any{}
	if as.user != "" {
		host, _, _ := strings.Cut(ref, "/")
		auths[host] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(as.pair()))}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, filepath.Join(dir, "config.json"), string(text))
}
