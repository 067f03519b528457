package golden

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// The form of the cache folder and of the memberships in its database, after pulls by
// two organisations. Nodes of every version read both, so neither ever changes.
func TestGolden_CacheFolder(t *testing.T) {
	t.Parallel()
	v := newVillage(t, true)
	n := v.node(t)
	for _, who := range []string{"acme", "globex"} {
		n.pull(n.doors[0], "ghcr.io/acme/app", "1", "login", who+":"+doorOf(who))
	}
	n.stop()
	// The name of an origin's folder: the host, and half a SHA-256 of the whole of it,
	// which begins with its owner, here nobody.
	host := strings.TrimPrefix(v.registry.URL(), "http://")
	sum := sha256.Sum256(fmt.Appendf(nil, `"" "http" %q`, host))
	names := []string{fmt.Sprintf("%s-%x", strings.ReplaceAll(host, ":", "_"), sum[:16]), "ORIGIN"}
	add := func(digest interface{ Encoded() string }, name string) {
		hex := digest.Encoded()
		names = append(names, hex[:2]+"/"+hex, "xx/xx"+name, hex, "xx"+name)
	}
	p := v.image.Platforms[0]
	add(v.image.Digest, "INDEX")
	add(p.Manifest, "MANIFEST")
	add(p.Config, "CONFIG")
	for i, l := range p.Layers {
		add(l, fmt.Sprint("LAYER", i+1))
	}
	root := filepath.Join(v.dir, "cache")
	sorted := func(lines []string) string {
		called := strings.NewReplacer(names...)
		for i := range lines {
			lines[i] = called.Replace(lines[i])
		}
		slices.Sort(lines)
		return strings.Join(slices.Compact(lines), "\n")
	}
	hold(t, "cache_folder", "The cache folder after a pull. xx is what a digest begins with.",
		sorted(tree(t, root))+"\n\nMemberships in facts.db:\n\n"+sorted(memberships(t, filepath.Join(root, "facts.db"))))
}

// tree lists a folder: names, modes, and the sizes of files, but not that of the
// database, which grows by pages.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		size := "-"
		if info.Mode().IsRegular() && name != "facts.db" {
			size = fmt.Sprint(info.Size())
		}
		if parent := filepath.Dir(name); info.IsDir() && filepath.Base(parent) == "sha256" {
			name = filepath.Join(parent, "xx")
		}
		lines = append(lines, fmt.Sprintf("%s %v %s", name, info.Mode(), size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// memberships lists the bucket of the database that every version reads: the parts of
// each key, each of which stands behind its length, and the form of the value.
func memberships(t *testing.T, file string) []string {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var lines []string
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("member")).ForEach(func(key, value []byte) error {
			var parts []string
			for len(key) > 0 {
				size, n := binary.Uvarint(key)
				if n <= 0 || size > uint64(len(key)-n) {
					return fmt.Errorf("a key that is no list of parts: %x", key)
				}
				parts = append(parts, string(key[n:n+int(size)]))
				key = key[n+int(size):]
			}
			if len(value) != 9 {
				return fmt.Errorf("a value of %d bytes: %x", len(value), value)
			}
			at := time.Unix(0, int64(binary.BigEndian.Uint64(value[1:])))
			if age := time.Since(at); age < 0 || age > 2*patience {
				return fmt.Errorf("the time of %v is %v", parts, at)
			}
			lines = append(lines, fmt.Sprintf("%q = %c and 8 bytes: nanoseconds since 1970", parts, value[0]))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
