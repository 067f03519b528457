package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"berth/internal/descriptor"
)

// Op is a kind of file operation.
type Op string

// The operations. There are few of them, so that they can label a metric.
const (
	OpMake   Op = "make" // a file, a folder, their size
	OpOpen   Op = "open"
	OpRead   Op = "read"
	OpWrite  Op = "write"
	OpSync   Op = "sync"
	OpRename Op = "rename"
	OpRemove Op = "remove"
	OpList   Op = "list"
)

// These may be made to fail, but are not counted: a filesystem that does not know
// them is not one that fails.
const (
	OpStat  Op = "stat" // of the lock: whether the folder is where it was
	OpLock  Op = "lock"
	OpLink  Op = "link"
	OpSpace Op = "space" // how much there is, and is left
)

// Ops are all that are counted.
func Ops() []Op {
	return []Op{OpMake, OpOpen, OpRead, OpWrite, OpSync, OpRename, OpRemove, OpList}
}

// disk does the store's file operations, and counts those that fail. All of
// them go through it, so that each can be made to fail.
type disk struct {
	fault func(op Op, path string) error // may be nil
	log   *slog.Logger

	underWay underWay
	// unsynced: the filesystem cannot sync, and this was said.
	unsynced atomic.Bool

	mu     sync.Mutex
	failed map[Op]int64
}

// errSkipped as fault's answer lets an operation succeed without being done.
var errSkipped = errors.New("skipped")

// before begins an operation, and says what before it was asked to fail with. Call
// after with the turn.
func (d *disk) before(op Op, path string) (turn, error) {
	at := d.underWay.begin(op)
	if d.fault == nil {
		return at, nil
	}
	return at, d.fault(op, path)
}

// after ends an operation, and counts it where it has failed.
func (d *disk) after(op Op, at turn, err error) error {
	d.underWay.end(at)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist), errors.Is(err, io.EOF):
		return err
	case descriptor.Exhausted(err): // the disk was not even asked
		return err
	case err == errSkipped:
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.failed = map[Op]int64{}
	}
	d.failed[op]++
	return err
}

// Failures counts the file operations that failed. That a file is not there, or
// there already, is none.
func (s *Store) Failures() map[Op]int64 {
	d := s.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.failed)
}

func (d *disk) mkdirAll(dir string) error {
	at, err := d.before(OpMake, dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	return d.after(OpMake, at, err)
}

// makeDir makes dir if it is not there. Something else in its place is an error,
// a symbolic link to a folder too.
func (d *disk) makeDir(dir string) (made bool, err error) {
	at, err := d.before(OpMake, dir)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err = d.after(OpMake, at, err); !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is in the way: it is no folder", dir)
	}
	return false, err
}

// createTemp makes a file of size bytes with a name of its own, and its folder
// where somebody has emptied that of a running cache.
func (d *disk) createTemp(dir, pattern string, size int64) (f *os.File, err error) {
	at, err := d.before(OpMake, dir)
	if err == nil {
		f, err = os.CreateTemp(dir, pattern)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.mkdirAll(dir); err == nil {
			f, err = os.CreateTemp(dir, pattern)
		}
	}
	if err == nil {
		if err = f.Truncate(size); err != nil {
			_ = f.Close() // nothing was written
			_ = d.remove(f.Name())
		}
	}
	return f, d.after(OpMake, at, err)
}

// openFile is os.OpenFile, for files that no path from outside leads to.
func (d *disk) openFile(path string, flag int) (f *os.File, err error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpMake
	}
	at, err := d.before(op, path)
	if err == nil {
		f, err = os.OpenFile(path, flag|unix.O_NOFOLLOW, 0o600)
	}
	return f, d.after(op, at, err)
}

// open opens a blob for reading, by a path without links.
func (d *disk) open(path string) (fd int, err error) {
	at, err := d.before(OpOpen, path)
	if err == nil {
		fd, err = openNoLinks(path)
	}
	return fd, d.after(OpOpen, at, err)
}

func (d *disk) readAt(f *os.File, p []byte, off int64) (n int, err error) {
	at, err := d.before(OpRead, f.Name())
	if err == nil {
		n, err = f.ReadAt(p, off)
	}
	return n, d.after(OpRead, at, err)
}

// writeAt writes p. A fault of io.ErrShortWrite lets the first half through.
func (d *disk) writeAt(f *os.File, p []byte, off int64) (n int, err error) {
	at, err := d.before(OpWrite, f.Name())
	if err == nil {
		n, err = f.WriteAt(p, off)
	} else if errors.Is(err, io.ErrShortWrite) {
		n, _ = f.WriteAt(p[:len(p)/2], off)
	}
	return n, d.after(OpWrite, at, err)
}

// allocate gives f room for n bytes from off on, in one piece. To write there costs
// half of what the same pages cost one by one. Not every filesystem can; and one that
// has no room says so again when it is written to.
func (d *disk) allocate(f *os.File, off, n int64) error {
	at := d.underWay.begin(OpWrite)
	defer d.underWay.end(at)
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// sync makes f durable. Where the filesystem cannot do that, it is used without:
// what was not written when the power went is either gone, or found to be wrong by
// its digest when it is first read.
func (d *disk) sync(f *os.File) error {
	at, err := d.before(OpSync, f.Name())
	if err == nil {
		err = f.Sync()
	}
	if unsupported(err) || errors.Is(err, unix.EINVAL) {
		if !d.unsynced.Swap(true) {
			d.log.Warn("this filesystem cannot sync: what was just kept may be lost with the power, and is fetched again then", "path", f.Name(), "err", err)
		}
		d.underWay.end(at)
		return nil
	}
	return d.after(OpSync, at, err)
}

// unsupported says that the filesystem does not know the operation.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOLCK)
}

// syncFolder makes what dir lists durable. Without a descriptor to do it with, a name
// may be lost with the power, and what it named is fetched again then: to drop it now
// would have it fetched again for certain.
func (d *disk) syncFolder(dir string) error {
	f, err := d.openFile(dir, os.O_RDONLY)
	if descriptor.Exhausted(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.sync(f), f.Close())
}

func (d *disk) rename(from, to string) error {
	at, err := d.before(OpRename, to)
	if err == nil {
		err = os.Rename(from, to)
	}
	return d.after(OpRename, at, err)
}

// link is os.Link. Not every filesystem has links, and none has any number of them.
func (d *disk) link(from, to string) error {
	at, err := d.before(OpLink, to)
	defer d.underWay.end(at)
	if err != nil {
		return err
	}
	return os.Link(from, to)
}

// space is what a filesystem has.
type space struct {
	// total and free bytes.
	total, free int64
	// files are how many more it can hold; math.MaxInt64 where any number.
	files int64
}

// space of the filesystem of dir. One that does not say has no total, and is no
// limit.
func (d *disk) space(dir string) space {
	var st unix.Statfs_t
	at, err := d.before(OpSpace, dir)
	defer d.underWay.end(at)
	if err == nil {
		err = unix.Statfs(dir, &st)
	}
	if err != nil || st.Blocks == 0 {
		return space{free: math.MaxInt64 / 2, files: math.MaxInt64}
	}
	s := space{total: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize, files: math.MaxInt64}
	if st.Files > 0 {
		s.files = int64(st.Ffree)
	}
	return s
}

func (d *disk) remove(path string) error {
	at, err := d.before(OpRemove, path)
	if err == nil {
		err = os.Remove(path)
	}
	return d.after(OpRemove, at, err)
}

func (d *disk) removeAll(path string) error {
	at, err := d.before(OpRemove, path)
	if err == nil {
		err = os.RemoveAll(path)
	}
	return d.after(OpRemove, at, err)
}

func (d *disk) readDir(dir string) (all []os.DirEntry, err error) {
	at, err := d.before(OpList, dir)
	if err == nil {
		all, err = os.ReadDir(dir)
	}
	return all, d.after(OpList, at, err)
}
