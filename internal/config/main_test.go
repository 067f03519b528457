package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testOptions are a node of their own: no environment, a clock that stands.
func testOptions() Options {
	env := map[string]string{"HOME": "/home/berth", "XDG_RUNTIME_DIR": "/run/user/1000"}
	return Options{
		Getenv: func(key string) string { return env[key] },
		Root:   func() bool { return false },
		Now:    func() time.Time { return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) },
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
