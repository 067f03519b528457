// Package fileid tells one content of a file from the next without reading it.
package fileid

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID is what a change of a file changes. Two are compared with ==; the zero ID is
// no file's.
type ID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
}

// Of is the ID of the file that info is about.
func Of(info fs.FileInfo) ID {
	id := ID{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino = uint64(stat.Dev), stat.Ino //nolint:unconvert // Dev is narrower elsewhere
		id.ctime = stat.Ctim.Nano()
	}
	return id
}

// Racy is how long after a change another one could go unseen. Timestamps come from
// the kernel's tick, up to 10 ms, and some filesystems keep whole seconds, FAT two.
const Racy = 2 * time.Second

// Changed is when the file changed last. It goes by ctime, which every change moves
// and nobody can set; where there is none, by mtime.
func (id ID) Changed() time.Time {
	if id.ctime == 0 {
		return time.Unix(0, id.mtime)
	}
	return time.Unix(0, id.ctime)
}

// Settled says whether id, taken at now, can be told from every later change. One in
// the future is another machine's clock, and never trusted: the file is read once
// more, which costs little.
func (id ID) Settled(now time.Time) bool { return now.Sub(id.Changed()) > Racy }

// Stamp is an ID as it was seen at some moment, to tell later whether the file has to
// be read again. The zero Stamp is not known to be that of anything.
type Stamp struct {
	ID ID // zero: there is no file, or it cannot be seen
	// Settled says that a change after this one would show in the next one.
	Settled bool
}

// StampOf is that of what lies at path at now. Links are followed, since deployments
// swap them.
func StampOf(path string, now time.Time) Stamp {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{Settled: true}
	}
	return stamped(info, now)
}

// StampIn is StampOf for a file in a folder that is open, by its descriptor. For many
// files of one folder it takes half the time: the path to the folder is not walked again
// for each of them.
func StampIn(dir int, name string, now time.Time) Stamp {
	var stat unix.Stat_t
	err := unix.Fstatat(dir, name, &stat, 0)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fstatat(dir, name, &stat, 0)
	}
	if err != nil {
		return Stamp{Settled: true}
	}
	id := ID{uint64(stat.Dev), stat.Ino, stat.Size, stat.Mtim.Nano(), stat.Ctim.Nano()} //nolint:unconvert // Dev is narrower elsewhere
	return Stamp{id, id.Settled(now)}
}

func stamped(info fs.FileInfo, now time.Time) Stamp {
	id := Of(info)
	return Stamp{id, id.Settled(now)}
}

// Same says that nothing has changed since before was taken.
func (s Stamp) Same(before Stamp) bool { return before.Settled && s.ID == before.ID }

// Read reads a regular file of at most limit bytes, and says which one it was. It
// never waits for a writer: opening a pipe that nobody writes to would block for ever.
func Read(path string, limit int64) (content []byte, stamp Stamp, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Stamp{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		return nil, Stamp{}, err
	}
	stamp = stamped(info, time.Now())
	content, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = &fs.PathError{Op: "read", Path: path, Err: TooLarge(limit)}
	}
	if err != nil {
		return nil, Stamp{}, err
	}
	return content, stamp, nil
}

// ErrNotRegular is why a pipe, a folder or a device is not read.
var ErrNotRegular = errors.New("this is no regular file")

// TooLarge is why a file is not read: it has more bytes than this.
type TooLarge int64

// Error names the bound.
func (limit TooLarge) Error() string {
	return fmt.Sprintf("it has more than %d bytes, which is the most that is read", int64(limit))
}
