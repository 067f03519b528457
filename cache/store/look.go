package store

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// LastUse tells the size of the blob of origin and when it was last used, which
// asking is not. Times are coarse: see touchEvery.
func (s *Store) LastUse(origin string, d oci.Digest) (size int64, at time.Time, ok bool) {
	fd, st, err := s.openBlob(s.path(origin, d), d)
	if err != nil {
		return 0, time.Time{}, false
	}
	_ = unix.Close(fd) // nothing was read from it
	return st.Size, time.Unix(st.Mtim.Sec, st.Mtim.Nsec), true
}

// Look reads a blob of at most limit bytes, which is no use of it. What it gives
// may have rotted on the disk.
func (s *Store) Look(origin string, d oci.Digest, limit int64) ([]byte, error) {
	fd, st, err := s.openBlob(s.path(origin, d), d)
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
