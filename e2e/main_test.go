//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// direct says that clients talk to the upstream registry itself.
var direct = os.Getenv("E2E_DIRECT") == "1"

// built is the folder of what this run builds; removed at its end.
var built = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "berth-e2e-bin") })

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil {
		_ = os.RemoveAll(dir)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// berthBinary is E2E_BERTH, or a berth built from the tree that this test is in.
var berthBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("E2E_BERTH"); path != "" {
		return filepath.Abs(path)
	}
	return goBuild("../cmd/berth", "berth")
})

// helloBinary is a program without any library, small enough to be a layer.
var helloBinary = sync.OnceValues(func() (string, error) { return goBuild("./testdata/hello", "hello") })

func goBuild(pkg, name string) (string, error) {
	dir, err := built()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	out := filepath.Join(dir, name)
	build := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, text)
	}
	return out, nil
}
