package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// OpenBlob opens the blob that origin delivered, and tells its size. A blob that
// is not there is fs.ErrNotExist; an empty file where a blob should be is a
// trace of a lost write, and not there either.
func (s *Store) OpenBlob(origin string, d oci.Digest) (*os.File, int64, error) {
	path := s.capacity.path(origin, d)
	if s.checks.knownBad(origin, d) {
		return nil, 0, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	fd, st, err := s.openBlob(path, d)
	if err != nil {
		return nil, 0, err
	}
	used(path, time.Unix(st.Mtim.Sec, st.Mtim.Nsec))
	return os.NewFile(uintptr(fd), path), st.Size, nil
}

// Use notes a use of the blob that needed no OpenBlob.
func (s *Store) Use(origin string, d oci.Digest) {
	path := s.capacity.path(origin, d)
	if info, err := os.Lstat(path); err == nil {
		used(path, info.ModTime())
	}
}

// Stat tells the size of the blob that OpenBlob would find, and when it was last
// used, to touchEvery. It is no use of it.
func (s *Store) Stat(origin string, d oci.Digest) (size int64, used time.Time, err error) {
	path := s.capacity.path(origin, d)
	if s.checks.knownBad(origin, d) {
		return 0, time.Time{}, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	fd, st, err := s.openBlob(path, d)
	if err != nil {
		return 0, time.Time{}, err
	}
	_ = unix.Close(fd) // nothing was read from it
	return st.Size, time.Unix(st.Mtim.Sec, st.Mtim.Nsec), nil
}

// Look reads a blob of at most limit bytes, which is no use of it. What it gives
// may have rotted on the disk.
func (s *Store) Look(origin string, d oci.Digest, limit int64) ([]byte, error) {
	fd, st, err := s.openBlob(s.capacity.path(origin, d), d)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.String())
	defer f.Close()
	if st.Size > limit {
		return nil, &fs.PathError{Op: "look", Path: d.String(), Err: fmt.Errorf("it has more than %d bytes", limit)}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// path is the only place where a blob's file name is made. Both parts are safe: an Origin's
// Dir has no separators, and a Digest is checked lower-case hex.
func (c *capacity) path(origin string, d oci.Digest) string {
	hex := d.Encoded()
	return c.blobs + "/" + origin + "/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex
}

// openBlob opens the file at path if it can be the blob d.
func (s *Store) openBlob(path string, d oci.Digest) (fd int, st unix.Stat_t, err error) {
	if fd, err = s.disk.open(path); err != nil {
		return -1, st, err
	}
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 && d != d.Algorithm().FromBytes(nil)) {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was read from it
		return -1, st, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, st, nil
}

const openFlags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK

// openNoLinks opens path for reading if no part of it is a symbolic link: the
// path is the proof of where a blob came from, and a link could lead to another
// origin's, or out of the folder. What is a link is not there. Opening never
// waits, as that of a pipe would.
func openNoLinks(path string) (fd int, err error) {
	how := unix.OpenHow{Flags: openFlags, Resolve: unix.RESOLVE_NO_SYMLINKS}
	for fd, err = unix.Openat2(unix.AT_FDCWD, path, &how); errors.Is(err, unix.EINTR); {
		fd, err = unix.Openat2(unix.AT_FDCWD, path, &how)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // Linux before 5.6, or a sandbox that does not know the call
		fd, err = openNoLastLink(path)
	}
	if err == nil {
		return fd, nil
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENXIO) { // a link, a file for a folder, a socket
		err = fs.ErrNotExist
	}
	return -1, &fs.PathError{Op: "open", Path: path, Err: err}
}

// openNoLastLink looks at the last part of path only.
func openNoLastLink(path string) (fd int, err error) {
	for fd, err = unix.Open(path, openFlags|unix.O_NOFOLLOW, 0); errors.Is(err, unix.EINTR); {
		fd, err = unix.Open(path, openFlags|unix.O_NOFOLLOW, 0)
	}
	return fd, err
}
