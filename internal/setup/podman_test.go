package setup

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSetup_PodmanKeepsTheRest: what else is in berth's file stays where it is, when it is
// written, written again and undone; a registry that is there twice is refused.
func TestSetup_PodmanKeepsTheRest(t *testing.T) {
	t.Parallel()
	const above, below = "unqualified-search-registries = [\"quay.io\"]\n", "\n[[registry]]\nprefix = \"corp.example\"\nlocation = \"mirror.example\"\n"
	path := filepath.Join(t.TempDir(), "berth.conf")
	o := Options{Listeners: []Listener{openPort}, Registries: three, File: path}
	put(t, path, above, 0o644)
	w, err := plan(t, "podman", o).Write(now)
	if err != nil || w[0].Backup == "" || text(t, w[0].Backup) != above || !strings.HasPrefix(text(t, path), above) {
		t.Errorf("%+v, %v, and then\n%s", w, err, text(t, path))
	}
	put(t, path, text(t, path)+below, 0o644)
	o.Registries = three[:2]
	if _, err := plan(t, "podman", o).Write(now.Add(1)); err != nil {
		t.Fatal(err)
	}
	got := text(t, path)
	if !strings.HasPrefix(got, above) || !strings.HasSuffix(got, tomlEnd+below) || strings.Contains(got, "acme.com") || strings.Count(got, tomlBegin) != 1 {
		t.Errorf("written again:\n%s", got)
	}
	o.Registries = append(slices.Clone(o.Registries), Registry{"corp.example", "https://corp.example"})
	if w, err := plan(t, "podman", o).Write(now); err == nil || !strings.Contains(err.Error(), `"corp.example"`) || text(t, path) != got {
		t.Errorf("a registry twice: %+v, %v", w, err)
	}
	if _, err := plan(t, "podman", o).Undo(now); err != nil || text(t, path) != above+below {
		t.Errorf("undone: %v\n%s", err, text(t, path))
	}
}
