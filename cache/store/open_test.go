package store

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"berth/oci"
)

func hexOf(data []byte) string {
	sum := sha512.Sum512(data)
	return hex.EncodeToString(sum[:])
}

// long is a time long ago.
var long = time.Now().Add(-1000 * time.Hour)

func TestOpenMakesTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir, Options{})
	data, _ := newBlob(1, 1000)
	keep(t, s, here, data)
	closeStore(t, s)
	tagged, err := os.ReadFile(filepath.Join(dir, "CACHEDIR.TAG"))
	if err != nil || !strings.HasPrefix(string(tagged), "Signature: 8a477f597d28d172789f06886806bc55\n") {
		t.Errorf("%q, %v", tagged, err)
	}
	for _, name := range []string{"", "tmp", "blobs"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	for _, junk := range []string{"tmp/0123456789abcdef-1", "tmp/folder/file"} {
		write(t, filepath.Join(dir, junk))
	}
	outside := filepath.Join(t.TempDir(), "file")
	write(t, outside)
	symlink(t, filepath.Dir(outside), filepath.Join(dir, "tmp", "link"))
	s = open(t, dir, Options{})
	wantBlob(t, s, here, data)
	wantClean(t, s)
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("what a link in tmp led to: %v", err)
	}
	if u := s.Usage(); u.Bytes != 1000 || u.Blobs != 1 {
		t.Errorf("%+v", u)
	}
}

// The folder may be reached through a link, and be named by a relative path.
func TestOpenThroughALink(t *testing.T) {
	target := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	symlink(t, target, link)
	s := open(t, link, Options{})
	data, _ := newBlob(1, 1000)
	keep(t, s, here, data)
	wantBlob(t, s, here, data)
	wantClean(t, s)
	closeStore(t, s)
	t.Chdir(target)
	s = open(t, ".", Options{})
	wantBlob(t, s, here, data)
	wantClean(t, s)
}

func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	data, _ := newBlob(1, 1000)
	growing := grown(t, s, here, data)
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) || !strings.Contains(fmt.Sprint(err), dir) {
		t.Errorf("%v", err)
	}
	out, _ := runChild(t, "open", dir)
	if !strings.Contains(out, ErrInUse.Error()) || !strings.Contains(out, dir) {
		t.Errorf("another process: %s", out)
	}
	if err := growing.Publish(); err != nil { // its tmp was not emptied
		t.Error(err)
	}
	closeStore(t, s)
	if out, _ := runChild(t, "open", dir); out != "opened\n" {
		t.Errorf("after the first had gone: %s", out)
	}
}

// tmp is emptied at every start, so a folder that was somebody else's before is
// not taken: it may be a home, or /.
func TestAFolderThatIsNoCache(t *testing.T) {
	for _, name := range []string{"tmp/letters", "blobs/file"} {
		dir := t.TempDir()
		precious := filepath.Join(dir, name)
		write(t, precious)
		for range 2 { // the first try must not make it ours
			if s, err := Open(dir, Options{}); err == nil {
				_ = s.Close() // the test has failed already
				t.Errorf("%s: taken", name)
			}
			if _, err := os.Stat(precious); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(filepath.Dir(precious)); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "lost+found", "file")) // a mount point is fine
		open(t, dir, Options{})
	}
}

func TestOpenFails(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, dir string){
		"a file":           write,
		"lock is a folder": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "lock", "file")) },
		"tmp is a link": func(t *testing.T, dir string) {
			closeStore(t, open(t, dir, Options{}))
			if err := os.Remove(filepath.Join(dir, "tmp")); err != nil {
				t.Fatal(err)
			}
			outside := filepath.Join(t.TempDir(), "file")
			write(t, outside)
			symlink(t, filepath.Dir(outside), filepath.Join(dir, "tmp"))
			t.Cleanup(func() {
				if _, err := os.Stat(outside); err != nil {
					t.Errorf("what tmp led to: %v", err)
				}
			})
		},
		"blobs is a file": func(t *testing.T, dir string) {
			closeStore(t, open(t, dir, Options{}))
			if err := os.Remove(filepath.Join(dir, "blobs")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "blobs"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			make(t, dir)
			before := descriptors(t)
			if s, err := Open(dir, Options{}); err == nil {
				_ = s.Close() // the test has failed already
				t.Error("opened")
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d files are open, %d were", after, before)
			}
		})
	}
}

// Whatever else can lie where a blob should: it is not there, and what it leads
// to is neither read, nor counted, nor deleted.
func TestForeignThings(t *testing.T) {
	data, d := newBlob(1, 1000)
	outside := t.TempDir()
	planted := filepath.Join(outside, "sha256", d.Encoded()[:2], d.Encoded())
	write(t, planted)
	blobDir := func(s *Store) string { return filepath.Dir(s.path(here, d)) }
	for name, put := range map[string]func(t *testing.T, s *Store){
		"a folder":                   func(t *testing.T, s *Store) { write(t, filepath.Join(s.path(here, d), "file")) },
		"a link to a file":           func(t *testing.T, s *Store) { symlink(t, planted, s.path(here, d)) },
		"a link to nothing":          func(t *testing.T, s *Store) { symlink(t, "/nonexistent", s.path(here, d)) },
		"a link for the last folder": func(t *testing.T, s *Store) { symlink(t, filepath.Dir(planted), blobDir(s)) },
		"a link for the algorithm":   func(t *testing.T, s *Store) { symlink(t, filepath.Join(outside, "sha256"), filepath.Dir(blobDir(s))) },
		"a link for the origin":      func(t *testing.T, s *Store) { symlink(t, outside, filepath.Join(s.dir, "blobs", here)) },
		"a link to another origin": func(t *testing.T, s *Store) {
			keep(t, s, there, data)
			symlink(t, there, filepath.Join(s.dir, "blobs", here))
		},
		"a link to another's blob":  func(t *testing.T, s *Store) { keep(t, s, there, data); symlink(t, s.path(there, d), s.path(here, d)) },
		"a file for a folder":       func(t *testing.T, s *Store) { write(t, blobDir(s)) },
		"an empty file":             func(t *testing.T, s *Store) { write(t, s.path(here, d)); truncate(t, s.path(here, d)) },
		"nothing but foreign files": func(t *testing.T, s *Store) {},
		"a pipe": func(t *testing.T, s *Store) {
			if err := errors.Join(os.MkdirAll(blobDir(s), 0o700), unix.Mkfifo(s.path(here, d), 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), Options{MaxSize: 1 << 20})
			foreign := []string{
				"README", here + ".txt", "x/README", "x/sha256/README", "x/sha256/ab/README", "x/md5/ab/ab", "x/sha256/ab/" + d.Encoded() + ".foreign",
				"x/sha256/zz/" + d.Encoded(), "x/sha256/ab/cd/" + d.Encoded(), "x/sha256/" + d.Encoded()[:3] + "/" + d.Encoded(), "x/sha256/" + d.Encoded(), "x/sha256/" + d.Encoded()[:2] + "/" + strings.ToUpper(d.Encoded()),
			}
			for _, f := range foreign {
				write(t, filepath.Join(s.dir, "blobs", f))
			}
			put(t, s)
			before := descriptors(t)
			for range 10 {
				wantNone(t, s, here, d)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d files are open, %d were", after, before)
			}
			if err := s.removeBlob(here, d); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("removing: %v", err)
			}
			s.capacity.count2(t)
			wantCounted(t, s)
			evictAll(t, s)
			if u := s.Usage(); u.Bytes != 0 {
				t.Errorf("%+v", u)
			}
			for _, f := range append(foreign, planted) {
				if !filepath.IsAbs(f) {
					f = filepath.Join(s.dir, "blobs", f)
				}
				if got, err := os.ReadFile(f); err != nil || string(got) != "foreign" {
					t.Errorf("%s: %q, %v", f, got, err)
				}
			}
			closeStore(t, s)
			wantNone(t, open(t, s.dir, Options{}), here, d)
		})
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

// evictAll evicts what can be evicted.
func evictAll(t *testing.T, s *Store) {
	t.Helper()
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), s.o.MaxSize)
	if err != nil {
		t.Fatal(err)
	}
	b.Discard()
}

// An old kernel or a sandbox: the last part of a path is no link even so.
func TestOpenWithoutOpenat2(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	keep(t, s, here, data)
	fd, err := openNoLastLink(s.path(here, d))
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd) // only a try
	link := filepath.Join(t.TempDir(), "link")
	symlink(t, s.path(here, d), link)
	if _, err := openNoLastLink(link); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
}

// The empty blob is one: its digest says so.
func TestTheEmptyBlob(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	keep(t, s, here, nil)
	wantBlob(t, s, here, nil)
	wantClean(t, s)
}

// Every digest has a path of its own below blobs, of the form that is counted.
func TestPathsAreSafe(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	hexes := rapid.OneOf(rapid.StringMatching(`[0-9a-f]{64}`), rapid.StringMatching(`[0-9a-f]{128}`))
	rapid.Check(t, func(t *rapid.T) {
		h := hexes.Draw(t, "hex")
		checkPath(t, s, fmt.Sprintf("sha%d:%s", 4*len(h), h))
	})
}

func FuzzPath(f *testing.F) {
	for _, d := range []string{string(oci.DigestOf(nil)), "sha512:" + hexOf(nil), "sha256:../../../etc/passwd", "sha256:", "sha256:" + strings.Repeat("/", 64), "md5:x"} {
		f.Add(d)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, s string) {
		checkPath(t, &Store{dir: dir, capacity: &capacity{blobs: filepath.Join(dir, "blobs")}}, s)
	})
}

func checkPath(t tb, s *Store, digest string) {
	d, err := oci.ParseDigest(digest)
	if err != nil {
		return
	}
	path := s.path(here, d)
	if filepath.Clean(path) != path || !isBlob(strings.TrimPrefix(path, s.capacity.blobs)) {
		t.Fatalf("%q lies at %s", digest, path)
	}
	algorithm, rest, _ := strings.Cut(digest, ":")
	if rel, err := filepath.Rel(filepath.Join(s.dir, "blobs", here, algorithm), path); err != nil || rel != rest[:2]+"/"+rest {
		t.Fatalf("%q lies at %s", digest, path)
	}
}

// Use moves a blob's time, but not at each use, and a time from the future is
// no use.
func TestUseIsNoted(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	keep(t, s, here, data)
	recent := time.Now().Add(-touchEvery / 2)
	for _, c := range []struct {
		at    time.Time
		stays bool
	}{{recent, true}, {long, false}, {time.Now().Add(1000 * time.Hour), false}} {
		if err := os.Chtimes(s.path(here, d), c.at, c.at); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.has(here, d); !ok {
			t.Fatal("it is gone")
		}
		before, err := os.Stat(s.path(here, d))
		if err != nil || !before.ModTime().Equal(c.at) {
			t.Errorf("Has used it: %v, %v", before.ModTime(), err)
		}
		wantBlob(t, s, here, data)
		after, err := os.Stat(s.path(here, d))
		if err != nil || after.ModTime().Equal(c.at) != c.stays || time.Since(after.ModTime()).Abs() > 2*touchEvery {
			t.Errorf("%v became %v, %v", c.at, after.ModTime(), err)
		}
	}
}

// The warm path: one open, one fstat, and hardly any garbage.
func TestOpenBlobIsCheap(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 1 << 30, MinFree: 1 << 20})
	data, d := newBlob(1, 100_000)
	keep(t, s, here, data)
	if n := testing.AllocsPerRun(200, func() {
		f, _, err := s.OpenBlob(here, d)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close() // only a try
	}); n > 7 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(200, func() {
		if _, ok := s.has(here, d); !ok {
			t.Fatal("it is gone")
		}
	}); n > 4 {
		t.Errorf("Has: %v allocations", n)
	}
}

func BenchmarkOpenBlob(b *testing.B) {
	s := open(b, b.TempDir(), Options{})
	data, d := newBlob(1, 10_000)
	if err := grown(b, s, here, data).Publish(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := s.OpenBlob(here, d)
		if err != nil {
			b.Fatal(err)
		}
		_ = f.Close() // only a try
	}
}
