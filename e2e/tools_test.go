//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// program names one of the real programs that a test starts.
type program struct {
	name string
	// ours: from E2E_TOOLS only. The distribution's program of the same name is
	// another version, and another test.
	ours bool
}

var (
	registryProgram = program{"registry", true}
	craneProgram    = program{"crane", true}
	regctlProgram   = program{"regctl", true}
	orasProgram     = program{"oras", true}
	containerd2     = program{"containerd", true}
	ctr2            = program{"ctr", true}
	moby            = program{"dockerd", true}
	buildkitd       = program{"buildkitd", true}
	buildctl        = program{"buildctl", true}
	crictl          = program{"crictl", true}

	containerd1 = program{"containerd", false}
	ctr1        = program{"ctr", false}
	dockerd20   = program{"dockerd", false}
	podman      = program{"podman", false}
	skopeo      = program{"skopeo", false}
)

// find is the path of p. A missing program skips the test, or fails it where
// E2E_REQUIRE=1 says that everything was installed.
func (p program) find(t *testing.T) string {
	t.Helper()
	path, err := p.lookUp()
	if err == nil {
		return path
	}
	if os.Getenv("E2E_REQUIRE") == "1" {
		t.Fatalf("%s should be installed: %v", p.name, err)
	}
	t.Skipf("%s is not installed: %v", p.name, err)
	return ""
}

func (p program) lookUp() (string, error) {
	if p.ours {
		dir := os.Getenv("E2E_TOOLS")
		if dir == "" {
			return "", errors.New("E2E_TOOLS is not set")
		}
		return exec.LookPath(filepath.Join(dir, p.name))
	}
	path, err := exec.LookPath(p.name)
	if err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + p.name) // not in everybody's PATH
}

// environment is what every program here is started with: nothing of the
// caller's, and a proxy that answers nobody, so that a client that leaves
// berth behind fails instead of calling a registry on the internet.
func environment(home string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"HOME=" + home,
		"TMPDIR=" + home,
		"HTTP_PROXY=http://127.0.0.1:1",
		"HTTPS_PROXY=http://127.0.0.1:1",
		"NO_PROXY=127.0.0.1,localhost",
		"OTEL_TRACES_EXPORTER=none",
	}, more...)
}
