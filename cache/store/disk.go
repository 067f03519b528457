package store

import (
	"errors"
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

	// unsynced: the filesystem cannot sync, and this was said.
	unsynced atomic.Bool

	mu     sync.Mutex
	failed map[Op]int64
}

// errSkipped as fault's answer lets an operation succeed without being done.
var errSkipped = errors.New("skipped")

func (d *disk) do(op Op, path string, f func() error) error {
	err := d.before(op, path)
	if err == nil {
		err = f()
	}
	return d.after(op, err)
}

func (d *disk) before(op Op, path string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(op, path)
}

func (d *disk) after(op Op, err error) error {
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist):
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
	return d.do(OpMake, dir, func() error { return os.MkdirAll(dir, 0o700) })
}

func (d *disk) mkdir(dir string) error {
	return d.do(OpMake, dir, func() error { return os.Mkdir(dir, 0o700) })
}

// createTemp makes a file of size bytes with a name of its own.
func (d *disk) createTemp(dir, pattern string, size int64) (f *os.File, err error) {
	err = d.do(OpMake, dir, func() error {
		f, err = os.CreateTemp(dir, pattern)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := d.do(OpMake, f.Name(), func() error { return f.Truncate(size) }); err != nil {
		_ = f.Close() // nothing was written
		_ = d.remove(f.Name())
		return nil, err
	}
	return f, nil
}

// openFile is os.OpenFile, for files that no path from outside leads to.
func (d *disk) openFile(path string, flag int) (f *os.File, err error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpMake
	}
	err = d.do(op, path, func() error {
		f, err = os.OpenFile(path, flag|unix.O_NOFOLLOW, 0o600)
		return err
	})
	return f, err
}

// open is openNoLinks.
func (d *disk) open(path string) (fd int, err error) {
	if err = d.before(OpOpen, path); err == nil {
		fd, err = openNoLinks(path)
	}
	return fd, d.after(OpOpen, err)
}

func (d *disk) readAt(f *os.File, p []byte, off int64) (n int, err error) {
	err = d.do(OpRead, f.Name(), func() error {
		n, err = f.ReadAt(p, off)
		return err
	})
	return n, err
}

// writeAt writes p. A fault of io.ErrShortWrite lets the first half through.
func (d *disk) writeAt(f *os.File, p []byte, off int64) (n int, err error) {
	if err = d.before(OpWrite, f.Name()); err == nil {
		n, err = f.WriteAt(p, off)
	} else if errors.Is(err, io.ErrShortWrite) {
		n, _ = f.WriteAt(p[:len(p)/2], off)
	}
	return n, d.after(OpWrite, err)
}

// sync makes f durable. Where the filesystem cannot do that, it is used without:
// what was not written when the power went is either gone, or found to be wrong by
// its digest when it is first read.
func (d *disk) sync(f *os.File) error {
	err := d.before(OpSync, f.Name())
	if err == nil {
		err = f.Sync()
	}
	if unsupported(err) || errors.Is(err, unix.EINVAL) {
		if !d.unsynced.Swap(true) {
			d.log.Warn("this filesystem cannot sync: what was just kept may be lost with the power, and is fetched again then", "path", f.Name(), "err", err)
		}
		return nil
	}
	return d.after(OpSync, err)
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
	return d.do(OpRename, to, func() error { return os.Rename(from, to) })
}

// link is os.Link. Not every filesystem has links, and none has any number of them.
func (d *disk) link(from, to string) error {
	if err := d.before(OpLink, to); err != nil {
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
	err := d.before(OpSpace, dir)
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
	return d.do(OpRemove, path, func() error { return os.Remove(path) })
}

func (d *disk) readDir(dir string) (all []os.DirEntry, err error) {
	err = d.do(OpList, dir, func() error {
		all, err = os.ReadDir(dir)
		return err
	})
	return all, err
}
