package store

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// A blob is found under its name when it is whole and verified, and not before.
func TestPublish(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for _, size := range []int{0, 1, BlockSize + 1} {
		data, d := newBlob(1, size)
		b := grown(t, s, here, data)
		wantNone(t, s, here, d)
		before, err := b.OpenReader()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(); err != nil {
			t.Fatal(err)
		}
		wantBlob(t, s, here, data)
		after, err := b.OpenReader()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*os.File{before, after} {
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			_ = f.Close() // only read from
		}
		if err := b.Publish(); err == nil {
			t.Error("published twice")
		}
		b.Discard() // comes too late
		wantBlob(t, s, here, data)
		wantNone(t, s, there, d)
		info, err := os.Stat(s.path(here, d))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if err := s.removeBlob(here, d); err != nil {
			t.Fatal(err)
		}
		if f, err := b.OpenReader(); !errors.Is(err, fs.ErrNotExist) {
			_ = f.Close() // the test has failed already
			t.Errorf("after it was evicted: %v", err)
		}
		wantClean(t, s)
	}
}

// sha512 has its own folder.
func TestPublishSHA512(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data := random(1, 1000)
	d := oci.Digest("sha512:" + hexOf(data))
	b, err := s.NewBlocks(Account{}, here, d, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Claim(0, 1000).Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Hash(t.Context()), b.Publish()); err != nil {
		t.Fatal(err)
	}
	if n, ok := s.has(here, d); !ok || n != 1000 {
		t.Errorf("%d, %v", n, ok)
	}
	wantClean(t, s)
}

func TestUnverifiedIsNotPublished(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, BlockSize+1)
	for name, make := range map[string]func(*Blocks){
		"nothing there": func(*Blocks) {},
		"all there, and nobody hashed it": func(b *Blocks) {
			if _, err := b.Claim(0, -1).Write(data); err != nil {
				t.Error(err)
			}
		},
		"wrong": func(b *Blocks) {
			if _, err := b.Claim(0, -1).Write(random(2, len(data))); err != nil {
				t.Error(err)
			}
			if err := b.Hash(t.Context()); !errors.Is(err, ErrMismatch) {
				t.Errorf("hashing wrong bytes: %v", err)
			}
		},
		"given up before the hash was done": func(b *Blocks) {
			if _, err := b.Claim(0, -1).Write(data); err != nil {
				t.Error(err)
			}
			b.Fail(errors.New("given up"))
			if err := b.Hash(t.Context()); err == nil {
				t.Error("verified all the same")
			}
		},
	} {
		b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		make(b)
		if err := b.Publish(); err == nil || b.Verified() {
			t.Errorf("%s: published", name)
		}
		if _, err := b.OpenReader(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: opening what was discarded: %v", name, err)
		}
		wantNone(t, s, here, d)
		wantClean(t, s)
	}
}

// Who reads from a blob that is discarded goes on with what is there.
func TestDiscardUnderAReader(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 2*BlockSize)
	b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Claim(0, BlockSize).Write(data[:BlockSize]); err != nil {
		t.Fatal(err)
	}
	f, err := b.OpenReader()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read from
	b.Discard()
	wantClean(t, s)
	got := make([]byte, BlockSize)
	if n, err := b.Wait(t.Context(), 0, false); n != BlockSize || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, data[:BlockSize]) {
		t.Errorf("%v", err)
	}
	if _, err := b.Wait(t.Context(), BlockSize, false); !errors.Is(err, ErrDiscarded) {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := b.Claim(BlockSize, -1).Write(data[BlockSize:]); !errors.Is(err, ErrDiscarded) {
		t.Errorf("a writer that is late: %v", err)
	}
	wantNone(t, s, here, d)
}

// A second origin that delivers the same bytes shares one file, and it is the
// copy that was verified last.
func TestSecondOriginShares(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 100_000)
	keep(t, s, here, data)
	first := stat(t, s.path(here, d))
	rotten := bytes.Clone(data)
	rotten[5] ^= 1
	if err := os.WriteFile(s.path(here, d), rotten, 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err := s.OpenBlob(here, d)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read from

	keep(t, s, there, data)
	wantBlob(t, s, there, data)
	wantBlob(t, s, here, data)
	a, b := stat(t, s.path(here, d)), stat(t, s.path(there, d))
	if a.Ino != b.Ino || a.Nlink != 2 || a.Ino == first.Ino {
		t.Errorf("inodes %d and %d, before %d; %d links", a.Ino, b.Ino, first.Ino, a.Nlink)
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, rotten) {
		t.Errorf("who had it open reads something else: %v", err)
	}
	if u := s.Usage(); u.Blobs != 2 || u.Bytes != 2*int64(len(data)) {
		t.Errorf("a linked blob counts once per origin: %+v", u)
	}
	wantClean(t, s)
	keep(t, s, here, data) // again, and it is shared again
	if a, b := stat(t, s.path(here, d)), stat(t, s.path(there, d)); a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("inodes %d and %d, %d links", a.Ino, b.Ino, a.Nlink)
	}
	wantClean(t, s)

	// Each origin's is its own to lose.
	if err := s.removeBlob(there, d); err != nil {
		t.Fatal(err)
	}
	wantNone(t, s, there, d)
	wantBlob(t, s, here, data)
	if n := stat(t, s.path(here, d)).Nlink; n != 1 {
		t.Errorf("%d links", n)
	}
	wantClean(t, s)
}

// What is not the same blob there is left alone, and is no copy here.
func TestSecondOriginWithSomethingElse(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	keep(t, s, there, data)
	if err := os.WriteFile(s.path(there, d), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	keep(t, s, here, data)
	wantBlob(t, s, here, data)
	if n := stat(t, s.path(here, d)).Nlink; n != 1 {
		t.Errorf("%d links", n)
	}
	if got, err := os.ReadFile(s.path(there, d)); err != nil || string(got) != "short" {
		t.Errorf("%q, %v", got, err)
	}
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no inode")
	}
	return st
}

// Publishing over a blob that is there already (two fills, as manifest and as
// blob) counts one.
func TestPublishTwoOfTheSame(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 10 << 20})
	data, d := newBlob(1, 1<<20)
	one, two := grown(t, s, here, data), grown(t, s, here, data)
	if err := errors.Join(one.Publish(), two.Publish()); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.Bytes != 1<<20 || u.Blobs != 1 {
		t.Errorf("%+v", u)
	}
	if err := os.Truncate(s.path(here, d), 0); err != nil { // a lost write
		t.Fatal(err)
	}
	wantNone(t, s, here, d)
	keep(t, s, here, data)
	wantBlob(t, s, here, data)
}

// The folder fails in the ways a folder can: an error, and nothing stays.
func TestPublishIntoABrokenFolder(t *testing.T) {
	data, d := newBlob(1, 10_000)
	for name, breakIt := range map[string]func(t *testing.T, s *Store){
		"a file for the origin":    func(t *testing.T, s *Store) { write(t, filepath.Join(s.dir, "blobs", here)) },
		"a file for the algorithm": func(t *testing.T, s *Store) { write(t, filepath.Join(s.dir, "blobs", here, "sha256")) },
		"a link for the origin": func(t *testing.T, s *Store) {
			symlink(t, t.TempDir(), filepath.Join(s.dir, "blobs", here))
		},
		"a link for the last folder": func(t *testing.T, s *Store) {
			symlink(t, t.TempDir(), filepath.Dir(s.path(here, d)))
		},
		"the growing file is gone": func(t *testing.T, s *Store) {
			for _, path := range glob(t, filepath.Join(s.tmp(), "*")) {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), Options{})
			before := descriptors(t)
			b := grown(t, s, here, data)
			f, err := b.OpenReader()
			if err != nil {
				t.Fatal(err)
			}
			breakIt(t, s)
			if err := b.Publish(); err == nil {
				t.Error("published")
			}
			wantNone(t, s, here, d)
			wantClean(t, s)
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
				t.Errorf("its reader got %d bytes, %v", len(got), err)
			}
			_ = f.Close() // only read from
			if after := descriptors(t); after != before {
				t.Errorf("%d files are open, %d were", after, before)
			}
			keep(t, s, there, data) // another origin is not hurt
		})
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("foreign"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A folder where a blob should be is put aside: it would stop this blob for good.
func TestPublishWhereAFolderIs(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	write(t, filepath.Join(s.path(here, d), "file"))
	wantNone(t, s, here, d)
	keep(t, s, here, data)
	wantBlob(t, s, here, data)
	if _, err := os.Stat(filepath.Join(s.path(here, d)+".foreign", "file")); err != nil {
		t.Errorf("what was there is lost: %v", err)
	}
	wantClean(t, s)
}

// Somebody empties the folders of a running cache.
func TestTheFolderIsEmptiedMeanwhile(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	keep(t, s, here, data)
	for _, name := range []string{"tmp", "blobs"} {
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	wantNone(t, s, here, d)
	keep(t, s, here, data)
	wantBlob(t, s, here, data)
}

// A folder that may only be read: no new blobs, no leak, and what is there is
// served.
func TestReadOnlyFolder(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(1, 1000)
	keep(t, s, here, data)
	if err := os.Chtimes(s.path(here, d), long, long); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.tmp(), 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(s.tmp(), 0o700) }) // else it cannot be removed
	asNobody(t, s.dir, func() {
		if _, err := s.NewBlocks(Account{}, here, d, 10); !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrNoRoom) {
			t.Errorf("a new blob: %v", err)
		}
		wantBlob(t, s, here, data)
	})
	wantClean(t, s)
}

// A folder that cannot be used at all: what to do is said, and the system's own
// reason.
func TestFolderOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	asNobody(t, dir, func() {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Chmod(dir, 0o700) }()
		_, err := Open(dir, Options{})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "name another folder with --cache") {
			t.Errorf("%v", err)
		}
	})
}

// asNobody runs fn without root's rights to files, as the owner of dir,
// which is a t.TempDir.
func asNobody(t *testing.T, dir string, fn func()) {
	t.Helper()
	if os.Getuid() == 0 {
		const nobody = 65534
		err := filepath.WalkDir(filepath.Dir(dir), func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, nobody, nobody)) //nolint:gosec // nobody else writes to this test's folder
		})
		if err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread() // and never unlocked on failure: the thread goes
		if err := unix.Setfsuid(nobody); err != nil {
			t.Skip("cannot become somebody else:", err)
		}
		defer func() {
			if err := unix.Setfsuid(0); err == nil {
				runtime.UnlockOSThread()
			}
		}()
	}
	fn()
}

// small mounts a filesystem of its own.
func small(t *testing.T, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Skip("cannot mount a small filesystem:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A disk that others have filled is an error, takes nothing with it, and is over
// when there is room.
func TestDiskFull(t *testing.T) {
	s := open(t, small(t, "size=4m"), Options{})
	before := descriptors(t)
	large := random(1, 3<<20)
	for _, size := range []int64{int64(len(large)), -1} {
		b, err := s.NewBlocks(Account{}, here, oci.DigestOf(large), size)
		if err != nil {
			t.Fatal(err)
		}
		others := filepath.Join(s.dir, "others")
		if err := os.WriteFile(others, random(2, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		r := b.Claim(0, size)
		var written int
		for err == nil {
			var n int
			n, err = r.Write(large[written:min(written+100_000, len(large))])
			written += n
		}
		if want := map[bool]error{true: unix.ENOSPC, false: ErrNoRoom}[size > 0]; !errors.Is(err, want) || errors.Is(err, ErrMismatch) {
			t.Errorf("after %d bytes: %v", written, err)
		}
		if int64(written) != b.Have() || written == 0 || written > 3<<20 {
			t.Errorf("%d bytes are said to be written, %d are there", written, b.Have())
		}
		b.Fail(err)
		b.Discard()
		wantClean(t, s)
		if err := os.Remove(others); err != nil {
			t.Fatal(err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
	data := large[:1<<20]
	keep(t, s, here, data)
	wantBlob(t, s, here, data)
	wantClean(t, s)
}

// Larger than the disk: there is no room, whatever the limit says, and nothing goes for it.
func TestLargerThanTheDisk(t *testing.T) {
	s := open(t, small(t, "size=4m"), Options{MaxSize: 1 << 40})
	all := aged(t, s, 3, 500*kib)
	if _, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 5<<20); !errors.Is(err, ErrNoRoom) {
		t.Errorf("larger than the disk: %v", err)
	}
	if n := len(left(s, all)); n != 3 {
		t.Errorf("%d of 3 are left", n)
	}
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	b.Discard()
	wantClean(t, s)
}

// No inode left: blobs go for it, and where there is none to go, there is no room.
func TestNoInodes(t *testing.T) {
	s := open(t, small(t, "size=4m,nr_inodes=40"), Options{MaxSize: 1 << 20})
	var published, failed int
	for i := range uint64(60) {
		b, err := grow(s, here, random(i, 1000))
		if err == nil {
			err = b.Publish()
		}
		switch {
		case err == nil:
			published++
		case errors.Is(err, ErrNoRoom), errors.Is(err, unix.ENOSPC):
			failed++
		default:
			t.Error(err)
		}
	}
	if u := s.Usage(); u.Evicted == 0 || published == 0 || failed == 0 {
		t.Errorf("%d published, %d without room: %+v", published, failed, u)
	}
	wantClean(t, s)
}

// Two origins that deliver the same bytes at once share them for each other. What is
// one file already needs no other name: rename does nothing then, and would leave it.
func TestShareWhatIsShared(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data, d := newBlob(90, 1000)
	keep(t, s, here, data)
	keep(t, s, there, data)
	s.share(0, here, d, s.path(here, d), 1000)
	wantBlob(t, s, here, data)
	wantBlob(t, s, there, data)
	wantClean(t, s)
}
