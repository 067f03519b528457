package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// refusing makes operations fail for good.
func refusing(err error, ops ...Op) func(Op, string) error {
	return func(op Op, _ string) error {
		if slices.Contains(ops, op) {
			return err
		}
		return nil
	}
}

// What a filesystem may lack costs a warning and nothing else.
func TestStore_WithoutWhatFilesystemsLack(t *testing.T) {
	data, d := newBlob(1, BlockSize+1)
	for name, c := range map[string]struct {
		fault  func(Op, string) error
		warned string
	}{
		"no hard links": {refusing(unix.EPERM, OpLink), ""},
		"no locks":      {refusing(unix.ENOLCK, OpLock), "has no locks"},
		"no flock":      {refusing(unix.EOPNOTSUPP, OpLock), "has no locks"},
		"no sync":       {refusing(unix.EINVAL, OpSync), "cannot sync"},
		"no space":      {refusing(unix.ENOSYS, OpSpace), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			dir := t.TempDir()
			o := Options{MaxSize: 10 << 20, MinFree: 1 << 20, Fault: c.fault, Log: slog.New(slog.NewTextHandler(&log, nil))}
			s := open(t, dir, o)
			keep(t, s, here, data)
			keep(t, s, there, data)
			wantBlob(t, s, here, data)
			wantBlob(t, s, there, data)
			wantClean(t, s)
			if n := strings.Count(log.String(), c.warned); c.warned != "" && n != 1 || c.warned == "" && log.Len() > 0 {
				t.Errorf("it was said %d times:\n%s", n, &log)
			}
			for op, n := range s.Failures() {
				t.Errorf("%s failed %d times, for what the disk cannot be blamed", op, n)
			}
			closeStore(t, s)
			s = open(t, dir, o)
			if size, ok := s.has(here, d); !ok || size != int64(len(data)) {
				t.Errorf("after a restart: %d bytes, %v", size, ok)
			}
		})
	}
}

// Where there are no locks a note keeps a second process away while the first one
// lives, and not longer.
func TestStore_TwoProcessesWithoutLocks(t *testing.T) {
	dir := t.TempDir()
	o := Options{Boot: "this-boot", Fault: refusing(unix.ENOLCK, OpLock)}
	closeStore(t, open(t, dir, o))
	note, err := os.ReadFile(filepath.Join(dir, "lock"))
	if want := fmt.Sprintf("this-boot %d %s\n", os.Getpid(), startOf(os.Getpid())); err != nil || string(note) != want || startOf(os.Getpid()) == "" {
		t.Errorf("%q, want %q; %v", note, want, err)
	}
	parent := os.Getppid()
	for note, used := range map[string]bool{
		fmt.Sprintf("this-boot %d %s\n", parent, startOf(parent)): true,
		fmt.Sprintf("this-boot %d 1\n", parent):                   startOf(parent) == "1", // a number that was used again
		fmt.Sprintf("last-boot %d %s\n", parent, startOf(parent)): false,
		"this-boot 4194999 7\n":                                   false, // more than there can be
		"":                                                        false,
		"\x00\xff garbage\n":                                      false,
	} {
		if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, o)
		if errors.Is(err, ErrInUse) != used || err != nil && !used {
			t.Errorf("%q: %v", note, err)
		}
		if err == nil {
			closeStore(t, s)
		}
	}
}

// A program that berth is just starting has all its files until it runs: that keeps
// nobody from the folder.
func TestStore_LockEndsWithTheStore(t *testing.T) {
	for name, o := range map[string]Options{
		"flock": {},
		"the other kind": {Fault: func() func(Op, string) error {
			asked := 0
			return func(op Op, _ string) error {
				if op != OpLock {
					return nil
				}
				if asked++; asked%2 == 1 { // flock is asked first
					return unix.ENOLCK
				}
				return nil
			}
		}()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, o)
			child, err := unix.FcntlInt(s.lock.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(child) })
			closeStore(t, s)
			closeStore(t, open(t, dir, o))
		})
	}
}

// Only one of two that open the folder at once by the other kind of lock gets it.
func TestStore_OtherLockKeepsOthersAway(t *testing.T) {
	first := true
	o := Options{Fault: func(op Op, _ string) error {
		if op != OpLock {
			return nil
		}
		if first = !first; !first { // flock is asked first
			return unix.ENOLCK
		}
		return nil
	}}
	dir := t.TempDir()
	s := open(t, dir, o)
	if _, err := Open(dir, o); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "--cache") {
		t.Errorf("%v", err)
	}
	closeStore(t, s)
	closeStore(t, open(t, dir, o))
}

// Whatever takes the folder away, nothing is written, made or evicted any more
// where it was, also by what had begun before.
func TestStore_Gone(t *testing.T) {
	for name, take := range map[string]func(t *testing.T, dir string){
		"emptied": func(t *testing.T, dir string) {
			for _, path := range glob(t, filepath.Join(dir, "*")) {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		},
		"removed": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"replaced": func(t *testing.T, dir string) {
			if err := os.Rename(dir, dir+"-before"); err != nil {
				t.Fatal(err)
			}
			closeStore(t, open(t, dir, Options{}))
		},
		"covered": func(t *testing.T, dir string) {
			if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
				t.Skip("cannot mount:", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			s := open(t, dir, Options{MaxSize: 10 << 20})
			data, _ := newBlob(1, 1000)
			other, od := newBlob(2, 1000)
			growing := grown(t, s, here, data)
			if s.Gone() {
				t.Fatal("it is gone already")
			}
			take(t, dir)
			before := tree(t, dir)
			if !s.Gone() {
				t.Error("it seems to be there")
			}
			if _, err := s.NewBlocks(Account{}, here, od, int64(len(other))); !errors.Is(err, ErrGone) {
				t.Errorf("a new blob: %v", err)
			}
			if err := growing.Publish(); !errors.Is(err, ErrGone) {
				t.Errorf("publishing: %v", err)
			}
			if err := s.Probe(); !errors.Is(err, ErrGone) {
				t.Errorf("probing: %v", err)
			}
			if _, err := s.capacity.evict(t.Context(), want{n: 10 << 20}); !errors.Is(err, ErrGone) {
				t.Errorf("evicting: %v", err)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("it had\n%sand has\n%s", before, after)
			}
		})
	}
}

// tree is all that is in a folder.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path)
		}
		return nil
	})
	return b.String()
}

// What its filesystem was mounted on is told from anything else at the path: one
// that was made anew, and another filesystem that is mounted there.
func TestStore_PlaceIsUnmounted(t *testing.T) {
	for name, below := range map[string]string{"a mount point": "", "below one": "deeper/cache"} {
		t.Run(name, func(t *testing.T) {
			point := t.TempDir()
			mount := func() {
				if err := unix.Mount("tmpfs", point, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
					t.Skip("cannot mount:", err)
				}
			}
			unmount := func() {
				if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
					t.Fatal(err)
				}
			}
			dir := filepath.Join(point, below)
			plain := open(t, dir, Options{})
			if at := plain.Place(); at.Unmounted(dir) {
				t.Error("a folder that was never mounted")
			}
			closeStore(t, plain)
			mount()
			s := open(t, dir, Options{})
			at := s.Place()
			if at.Unmounted(dir) {
				t.Error("it is mounted")
			}
			closeStore(t, s)
			if err := os.RemoveAll(filepath.Join(point, "deeper")); err != nil {
				t.Fatal(err)
			}
			if at.Unmounted(dir) {
				t.Error("it was only removed")
			}
			unmount()
			if !at.Unmounted(dir) {
				t.Error("it was unmounted")
			}
			if below != "" {
				if err := os.RemoveAll(filepath.Join(point, "deeper")); err != nil {
					t.Fatal(err)
				}
				if !at.Unmounted(dir) {
					t.Error("it was unmounted, and is not there below either")
				}
			}
			mount()
			defer unmount()
			if at.Unmounted(dir) {
				t.Error("something is mounted there again")
			}
		})
	}
}

// Others have filled the disk, in bytes or in files: since nothing that could go
// would make enough room, nothing goes, by a reservation and by the sweep.
func TestEviction_NotInVain(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		fill    func(t *testing.T, dir string)
		lack    Lack
	}{
		"bytes": {"size=16m", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "others"), make([]byte, 15<<20), 0o600); err != nil {
				t.Fatal(err)
			}
		}, LackBytes},
		"files": {"size=16m,nr_inodes=60", func(t *testing.T, dir string) {
			for i := range 100 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("other", i)), nil, 0o600); err != nil {
					return // no more inodes
				}
			}
			t.Fatal("there is no end of files")
		}, LackInodes},
	} {
		t.Run(name, func(t *testing.T) {
			dir := small(t, c.options)
			s := open(t, dir, Options{MinFree: 2 << 20})
			all := aged(t, s, 4, 100*kib)
			c.fill(t, dir)
			_, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 1<<20)
			if none, ok := errors.AsType[*NoRoom](err); !ok || none.Lack != c.lack || !errors.Is(err, ErrNoRoom) {
				t.Errorf("%v", err)
			}
			if s.capacity.makeRoom(t.Context()) {
				t.Error("there is room, it says")
			}
			if n := len(left(s, all)); n != len(all) {
				t.Errorf("%d of %d are left", n, len(all))
			}
			wantClean(t, s)
		})
	}
}

// Two origins' names of one file free its bytes once: what looks like enough is not.
func TestEviction_NotInVainForSharedFiles(t *testing.T) {
	const mib = 1 << 20
	dir := small(t, "size=16m")
	s := open(t, dir, Options{})
	data, d := newBlob(1, 4*mib)
	keep(t, s, here, data)
	keep(t, s, there, data)
	if err := os.WriteFile(filepath.Join(dir, "others"), make([]byte, 11*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 7*mib); !errors.Is(err, ErrNoRoom) { // 1 is free, and 4 would be
		t.Errorf("%v", err)
	}
	if _, ok := s.has(here, d); !ok {
		t.Error("it went in vain")
	}
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 4*mib)
	if err != nil {
		t.Fatal(err)
	}
	b.Discard()
}

// What there is too little of is said.
func TestStore_NoRoomSaysWhy(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxSize: 100 * kib})
	wants := func(size int64, lack Lack) {
		t.Helper()
		_, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), size)
		if none, ok := errors.AsType[*NoRoom](err); !ok || none.Lack != lack || none.Bytes != size {
			t.Errorf("%d bytes: %v, want %s", size, err, lack)
		}
	}
	wants(101*kib, LackLimit)
	wants(1<<60, LackLimit)
	b, err := s.NewBlocks(Account{}, here, oci.DigestOf(nil), 60*kib)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	wants(50*kib, LackBusy)
}
