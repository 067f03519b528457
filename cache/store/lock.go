package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// lock keeps other processes from a folder. It is also how the folder is known
// again: whoever unmounts, empties or replaces it takes the file from its place.
type lock struct {
	file *os.File
	path string
	// dev and ino are the file's. Nothing else can have them while it is held.
	dev, ino uint64
	released atomic.Bool
}

// release unlocks and does not only close the file: a child that was forked a moment
// ago has the file too until it runs its own program, and the lock with it.
func (l *lock) release() error {
	l.released.Store(true)
	whole := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN)             // of the two, one was never taken
	_ = unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &whole) // likewise
	return l.file.Close()
}

func (d *disk) lockFolder(dir, boot string) (*lock, error) {
	path, err := filepath.Abs(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	f, err := d.openFile(path, os.O_CREATE|os.O_RDWR)
	if errors.Is(err, unix.EROFS) { // what lies there is served all the same
		if there, openErr := d.openFile(path, os.O_RDONLY); openErr == nil {
			f, err = there, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("locking the cache folder: %w: let this program's user write there, or name another folder with --cache", err)
	}
	if err := d.take(f, boot); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, ErrInUse) {
			return nil, fmt.Errorf("%w (%s): stop it, or give this one another --cache", err, dir)
		}
		return nil, fmt.Errorf("locking the cache folder %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("locking the cache folder %s: %w", dir, err)
	}
	return &lock{file: f, path: path, dev: st.Dev, ino: st.Ino}, nil
}

// take locks f in the first way that the filesystem knows. NFS without its lock
// daemon and many FUSE filesystems have no flock, and the former no other lock
// either: there the file says who uses the folder. Where that cannot be written
// nothing keeps a second process away; to serve nobody would be worse.
func (d *disk) take(f *os.File, boot string) error {
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	for _, way := range []func() error{
		func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) },
		func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole) },
	} {
		err := d.lockBy(f.Name(), way)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EACCES):
			return ErrInUse
		case !unsupported(err) && !errors.Is(err, unix.EBADF): // a file that is open for reading has no OFD lock
			return err
		}
	}
	return d.sign(f, boot)
}

// lockBy does not count a lock that is refused: that says nothing about the disk.
func (d *disk) lockBy(path string, way func() error) error {
	at, err := d.before(OpLock, path)
	defer d.underWay.end(at)
	if err != nil {
		return err
	}
	return way()
}

// sign writes into f which process uses the folder, unless one that lives does.
func (d *disk) sign(f *os.File, boot string) error {
	found := make([]byte, 200)
	n, err := f.ReadAt(found, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if signedBy(string(found[:n]), boot) {
		return ErrInUse
	}
	text := fmt.Sprintf("%s %d %s\n", boot, os.Getpid(), startOf(os.Getpid()))
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err != nil {
		d.log.Warn("this filesystem has no locks: take care that no other process uses the cache folder", "path", f.Name(), "err", err)
		return nil
	}
	d.log.Warn("this filesystem has no locks: another process of this machine is kept from the cache folder by a note, one of another machine or container is not", "path", f.Name())
	return nil
}

// signedBy says whether text is of a process that lives, other than this one. A
// process of an earlier boot is gone; that of another machine, which shares the
// folder, looks like one.
func signedBy(text, boot string) bool {
	var by, start string
	var pid int
	if n, _ := fmt.Sscanf(text, "%s %d %s", &by, &pid, &start); n != 3 || boot == "" || by != boot || pid == os.Getpid() {
		return false
	}
	return start != "" && startOf(pid) == start
}

// startOf is when a process started, in ticks since the boot: numbers of processes
// are used again. Empty: there is none, or /proc is not here.
func startOf(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The second field is a name in parentheses, in which anything can be.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const startTime = 22 - 3 // proc_pid_stat(5) counts from 1, and the rest begins at the third
	if len(fields) <= startTime {
		return ""
	}
	return fields[startTime]
}

// Gone says that the folder is not at its path any more: it was unmounted,
// emptied, removed or replaced, or another one was mounted over it. What is
// written there would not be written to what was opened.
func (s *Store) Gone() bool {
	var there unix.Stat_t
	if s.lock.released.Load() {
		return true
	}
	at, err := s.disk.before(OpStat, s.lock.path)
	if err == nil {
		err = unix.Stat(s.lock.path, &there)
	}
	s.disk.underWay.end(at)
	if err != nil {
		return true
	}
	return s.lock.dev != there.Dev || s.lock.ino != there.Ino
}

// Gone says that the blob's folder is.
func (b *Blocks) Gone() bool { return b.store.Gone() }

// ErrGone says that a folder is Gone.
var ErrGone = errors.New("the cache folder is not where it was: it was unmounted, emptied or replaced")

// Place is where a folder lay.
type Place struct {
	dir string // without symbolic links
	// below is what the folder's filesystem was mounted on; 0: it is the root.
	below uint64
}

// Place says where the folder lies, to be told later whether it was unmounted.
func (s *Store) Place() Place {
	at := mountOf(s.dir)
	for dir := s.dir; dir != "/"; {
		dir = filepath.Dir(dir)
		if m := mountOf(dir); m != at && m != 0 {
			return Place{s.dir, m}
		}
	}
	return Place{dir: s.dir}
}

// Unmounted says whether dir, as which the folder was opened, leads to what its
// filesystem was mounted on: whatever is written there would fill another disk,
// and would be hidden when the filesystem is mounted again.
func (p Place) Unmounted(dir string) bool {
	if p.below == 0 {
		return false
	}
	now, err := filepath.EvalSymlinks(dir)
	if err != nil {
		now = p.dir
	}
	if now != p.dir {
		return false // a link that leads elsewhere now
	}
	for ; mountOf(now) == 0 && now != "/"; now = filepath.Dir(now) { // it may be gone with the mount
	}
	return mountOf(now) == p.below
}

// mountOf tells mounts apart, also those of one filesystem where the kernel knows
// how to (5.8). 0: there is no such file.
func mountOf(path string) uint64 {
	var x unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &x); err == nil && x.Mask&unix.STATX_MNT_ID != 0 {
		return x.Mnt_id
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Dev + 1
}
