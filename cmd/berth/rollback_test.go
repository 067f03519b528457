package main

import (
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"berth/internal/ocitest"
)

// A later version was here, and this one is put back: what it knew is lost, what it
// kept is not. Each manifest costs a HEAD, and each blob its first byte: that a
// manifest is there does not prove that the blobs it lists are. Nothing that
// registries count is asked, and nothing is downloaded again.
func TestCacheOfALaterVersion(t *testing.T) {
	t.Parallel()
	w := newCostly(t, ocitest.Options{Private: true})
	n := w.serve()
	w.as(n, "acme").mustPull("ghcr.io/acme/app", w.image, "")
	n.stop()

	file := filepath.Join(w.cacheDir(), "facts.db")
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte("2")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// And it kept things of its own there.
	w.write(filepath.Join(w.cacheDir(), "manifests.idx"), "of a later version")
	if err := os.MkdirAll(filepath.Join(w.cacheDir(), "later", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}

	w.registry.Forget()
	n = w.serve()
	acme := w.as(n, "acme")
	acme.mustPull("ghcr.io/acme/app", w.image, "")
	for _, d := range w.image.Blobs(0) {
		if n := w.registry.BlobBytes(d); n != 1 {
			t.Errorf("%d bytes of %s were sent", n, d)
		}
	}
	must(t, w.registry, "the first pull after going back", cost{token: 1, head: 2, blobs: layers + 1})
	acme.mustPull("ghcr.io/acme/app", w.image, "")
	must(t, w.registry, "the second", cost{})
	if _, err := os.Stat(file + ".damaged"); err != nil {
		t.Errorf("the later version's facts are not kept aside: %v", err)
	}
}
