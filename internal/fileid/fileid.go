// Package fileid tells one content of a file from the next without reading it.
package fileid

import (
	"io/fs"
	"syscall"
	"time"
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
		id.ctime = time.Unix(stat.Ctim.Unix()).UnixNano()
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
