package credential

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"berth/internal/fileid"
	"berth/internal/hung"
)

// File is a file that holds a secret. Links are followed, since deployments
// swap them; it is the target that is judged: a regular file, owned by root or
// by the user that runs this program, with nothing for others and nothing for
// a group but this program's own. Its content is never part of an error.
type File struct {
	Path string
	// Directory, if set, is the only folder the file may lie in: Path is below
	// it, and a link that leads out is refused. It is for files that an
	// organisation names.
	Directory string
	// Trusted says that owner and mode need no check, as in the folder where
	// systemd puts a unit's credentials.
	Trusted bool
	// Hung bounds how long it may take. If nil, it is waited for.
	Hung *hung.Table
}

// read returns the content, of less than limit bytes, and which ID the file had.
func (f File) read(limit int64) ([]byte, fileid.ID, error) {
	file, err := f.open()
	if err != nil {
		return nil, fileid.ID{}, advised(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fileid.ID{}, err
	}
	if err := f.check(info); err != nil {
		return nil, fileid.ID{}, err
	}
	content, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil, fileid.ID{}, err
	}
	if int64(len(content)) == limit {
		return nil, fileid.ID{}, fmt.Errorf("%s is too large: %d bytes is the limit", f.shown(), limit-1)
	}
	return content, fileid.Of(info), nil
}

// Check says whether the file may hold a secret, by its owner and mode. It is for
// files that somebody else reads.
func (f File) Check() error {
	info, err := f.lookAt()
	if err != nil {
		return err
	}
	return f.check(info)
}

// open never waits: a named pipe opens at once and is refused by check.
func (f File) open() (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if f.Directory == "" {
		return os.OpenFile(f.Path, flags, 0)
	}
	root, err := os.OpenRoot(f.Directory)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.OpenFile(f.Path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s in %s: %w", f.Path, f.Directory, err)
	}
	return file, nil
}

// advised says what helps against the slips that are made most.
func advised(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: write it there, or correct its name", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: the user that berth runs as cannot read it: chgrp it and its folder to that user's group, chmod 0640 the file and 0750 the folder", err)
	}
	return err
}

func (f File) check(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.shown())
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("file owners cannot be read on this system")
	}
	if f.Trusted {
		return nil
	}
	switch mode := info.Mode().Perm(); {
	case stat.Uid != 0 && int64(stat.Uid) != int64(os.Geteuid()):
		return fmt.Errorf("%s belongs to user %d: it must belong to root or to the user that berth runs as (%d): chown it", f.shown(), stat.Uid, os.Geteuid())
	case mode&0o007 != 0:
		return fmt.Errorf("%s has mode %04o, so others may use it: chmod 0640 it where its group is the one that berth runs as, else 0600", f.shown(), mode)
	case mode&0o070 != 0 && int64(stat.Gid) != int64(os.Getegid()):
		return fmt.Errorf("%s has mode %04o and group %d, which is not the one that berth runs as: chgrp it to that one and chmod 0640, or chmod 0600 it", f.shown(), mode, stat.Gid)
	}
	return nil
}

// shown is where the file is, for whoever has to look at it.
func (f File) shown() string {
	if f.Directory == "" || filepath.IsAbs(f.Path) {
		return f.Path
	}
	return filepath.Join(f.Directory, f.Path)
}

func (f File) lookAt() (fs.FileInfo, error) {
	if f.Directory == "" {
		return os.Stat(f.Path)
	}
	root, err := os.OpenRoot(f.Directory)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Stat(f.Path)
}
