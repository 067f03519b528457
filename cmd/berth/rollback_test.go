package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"berth/internal/ocitest"
)

// another makes the cache folder one of another version, as far as the forms go
// that may differ: facts.db has its number and buckets of its own, and there are
// files that this version does not know.
func (h *home) another(version string) {
	h.t.Helper()
	db, err := bbolt.Open(filepath.Join(h.cacheDir(), "facts.db"), 0o600, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("epochs"))
		if err != nil {
			return err
		}
		return errors.Join(b.Put([]byte("acme"), []byte("7")), tx.Bucket([]byte("meta")).Put([]byte("version"), []byte(version)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		h.t.Fatal(err)
	}
	h.write(filepath.Join(h.cacheDir(), "manifests.idx"), "of another version")
	if err := os.MkdirAll(filepath.Join(h.cacheDir(), "later", "sha256"), 0o700); err != nil {
		h.t.Fatal(err)
	}
}

// A later version was here, and this one is put back, or the other way round: a
// pull of what is kept costs one HEAD of its tag's manifest, and a token where the
// registry wants one. No manifest is fetched, no blob is asked about.
func TestCacheOfAnotherVersion(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]string{"a later one": "2", "an earlier one": "0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCostly(t, ocitest.Options{Private: true})
			n := w.serve()
			w.as(n, "acme").mustPull("ghcr.io/acme/app", w.image, "")
			n.stop()
			w.another(version)

			w.registry.Forget()
			n = w.serve()
			acme := w.as(n, "acme")
			acme.mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "the first pull after the change", cost{token: 1, head: 1})
			acme.mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "the second", cost{})
			w.clock.forward(61 * time.Second)
			acme.mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "one after tag_ttl", cost{head: 1})
			w.as(n, "globex").mustPull("ghcr.io/acme/app", w.image, "")
			must(t, w.registry, "the first pull of a second organisation", cost{token: 1, head: 1})
		})
	}
}

// laterProgram is a version to come: it keeps rights and tags in another form.
var laterProgram = sync.OnceValues(func() (string, error) {
	file, err := filepath.Abs("../../cache/proof/file.go")
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	later := string(text)
	for _, change := range [][2]string{
		{`const version = "1"`, `const version = "2"`}, {`bucket = "access"`, `bucket = "rights"`}, {`bucket = "tag"`, `bucket = "names"`},
	} {
		if !strings.Contains(later, change[0]) {
			return "", fmt.Errorf("%s has no %s", file, change[0])
		}
		later = strings.Replace(later, change[0], change[1], 1)
	}
	replaced, overlay := filepath.Join(programs, "file.go.later"), filepath.Join(programs, "later.json")
	err = errors.Join(
		os.WriteFile(replaced, []byte(later), 0o600),
		os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, file, replaced), 0o600))
	if err != nil {
		return "", err
	}
	return goBuild("later", ".", "-overlay", overlay)
})

// The same with two programs, as people go forth and back: a version to come on the
// folder of this one, this one on that one's, and so on.
func TestProgramsOfTwoVersions(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{Private: true})
	builds := []func() (string, error){berthProgram, laterProgram}
	for i := range 4 {
		n := w.start(exec.Command(program(t, builds[i%2])))
		w.as(n, "acme").mustPull("ghcr.io/acme/app", w.image, "")
		want := cost{token: 1, head: 1}
		if i == 0 {
			want = cost{token: 1, head: 1, get: 2, blobs: layers + 1}
		}
		must(t, w.registry, fmt.Sprintf("the first pull from version %d", i%2+1), want)
		w.as(n, "acme").mustPull("ghcr.io/acme/app", w.image, "")
		must(t, w.registry, "the second", cost{})
		if told := strings.Contains(n.log.String(), "written by another version"); told != (i > 0) {
			t.Errorf("version %d says of the folder: %v", i%2+1, told)
		}
		n.stop()
	}
}

// What another version knew of rights is not taken over: everybody is asked about,
// as on the first day. So nobody reads what was taken from him meanwhile, whether
// the registry says so again, or cannot be asked.
func TestRightsOfAnotherVersion(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true, LiveRights: true})
	n := g.serve()
	for _, who := range []string{"acme", "globex"} {
		g.as(n, who).mustPull("ghcr.io/acme/app", g.image, "")
	}
	n.stop()
	g.another("2")
	g.registry.SetRights("globex-bot") // the later version was told

	n = g.serve()
	g.nothing(http.StatusForbidden, g.as(n, "globex"), g.as(n, "initech"))
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	g.nothing(http.StatusForbidden, g.as(n, "globex"), g.as(n, "initech"))
	n.stop()
	g.another("2")
	g.registry.Close()

	n = g.serve()
	g.nothing(http.StatusServiceUnavailable, g.as(n, "acme"), g.as(n, "globex"), g.as(n, "initech"), g.nobody(n))
}

// Under a service manager for the first time: what was proven without one stays
// proven, since the key of the fingerprints moves from the cache to the state folder.
func TestKeyMovesToTheStateFolder(t *testing.T) {
	t.Parallel()
	g := newGone(t, ocitest.Options{Private: true})
	n := g.run("STATE_DIRECTORY=")
	g.as(n, "acme").mustPull("ghcr.io/acme/app", g.image, "")
	n.stop()
	state := t.TempDir()
	if _, err := os.Stat(filepath.Join(g.cacheDir(), "key")); err != nil {
		t.Fatal(err)
	}
	g.registry.Close()

	n = g.run("STATE_DIRECTORY=" + state)
	g.stale(g.as(n, "acme"))
	if _, err := os.Stat(filepath.Join(g.cacheDir(), "key")); err == nil {
		t.Error("the key is in the cache folder still")
	}
	n.stop()
	n = g.run("STATE_DIRECTORY=" + state)
	g.stale(g.as(n, "acme"))
}
