//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// podmanClient is podman of the distribution, with everything it keeps in one folder.
type podmanClient struct{ path, dir string }

func TestPodman(t *testing.T) {
	testPuller(t, (*world).ref, func(t *testing.T, _ *world) puller { return startPodman(t) })
}

// Under the registry's own name, with a registries.conf that leads every pull
// to the front: the name in the image's name stays what people know.
func TestPodmanRegistriesConf(t *testing.T) {
	w := newWorld(t)
	p := startPodman(t)
	location := w.host(w.acme) + "/" + w.acme.name
	if direct {
		location = w.acme.addr
	}
	writeFile(t, filepath.Join(p.dir, "registries.conf"), fmt.Sprintf(
		"[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", w.acme.name, location))
	// The login is for where the name leads, and it is in a file: --creds is for
	// the host in the image's name only, and podman drops it when it goes elsewhere.
	dockerConfig(t, p.dir, location, w.as("acme"))
	i := pushImage(t, w.acme, "team/by-name", 64<<10)
	mustPull(t, p, ownName(w, i), login{}, i.digest)
}

// startPodman starts nothing: podman has no daemon.
func startPodman(t *testing.T) podmanClient {
	t.Helper()
	p := podmanClient{podman.find(t), tempDir(t, "podman")}
	writeFile(t, filepath.Join(p.dir, "policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`)
	writeFile(t, filepath.Join(p.dir, "registries.conf"), "")
	dockerConfig(t, p.dir, "", login{})
	writeFile(t, filepath.Join(p.dir, "storage.conf"), fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(p.dir, "root"), filepath.Join(p.dir, "run")))
	writeFile(t, filepath.Join(p.dir, "containers.conf"), "[engine]\nevents_logger = \"none\"\n")
	return p
}

func (p podmanClient) explains() bool { return true }

func (p podmanClient) pullFor(t *testing.T, ref, arch string, as login) error {
	t.Helper()
	_, err := p.podman(t, "pull", "--quiet", "--tls-verify=false", "--signature-policy", filepath.Join(p.dir, "policy.json"), "--creds", as.pair(), "--arch", arch, ref)
	return err
}

func (p podmanClient) pull(t *testing.T, ref string, as login) ([]string, error) {
	t.Helper()
	pull := []string{"pull", "--quiet", "--tls-verify=false", "--signature-policy", filepath.Join(p.dir, "policy.json")}
	if as.user != "" {
		pull = append(pull, "--creds", as.pair())
	}
	if _, err := p.podman(t, append(pull, ref)...); err != nil {
		return nil, err
	}
	text, err := p.podman(t, "image", "inspect", ref)
	if err != nil {
		return nil, err
	}
	var images []struct{ RepoDigests []string }
	if err := json.Unmarshal([]byte(text), &images); err != nil {
		return nil, err
	}
	var digests []string
	for _, i := range images {
		digests = append(digests, digestsIn(i.RepoDigests)...)
	}
	return digests, nil
}

func (p podmanClient) podman(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return p.podmanIn(t, nil, args...)
}

// podmanIn is podman in an environment with more in it.
func (p podmanClient) podmanIn(t *testing.T, more []string, args ...string) (string, error) {
	t.Helper()
	env := append([]string{
		"CONTAINERS_CONF=" + filepath.Join(p.dir, "containers.conf"),
		"CONTAINERS_STORAGE_CONF=" + filepath.Join(p.dir, "storage.conf"),
		"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(p.dir, "registries.conf"),
		"REGISTRY_AUTH_FILE=" + filepath.Join(p.dir, "config.json"),
		"XDG_RUNTIME_DIR=" + p.dir,
	}, more...)
	global := []string{"--tmpdir", filepath.Join(p.dir, "tmp"), "--cgroup-manager", "cgroupfs"}
	return run(t, p.dir, env, p.path, append(global, args...)...)
}

// digestsIn are the digests of "name@sha256:..." references.
func digestsIn(references []string) []string {
	var digests []string
	for _, r := range references {
		if _, digest, ok := strings.Cut(r, "@"); ok {
			digests = append(digests, digest)
		}
	}
	return digests
}
