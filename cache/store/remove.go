package store

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// Folders are where blobs of origin lie: its own, and those of what other nodes have
// shared, whose names begin with its name and a plus sign.
func (s *Store) Folders(origin string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	folders := []string{origin}
	for name := range s.origins {
		if strings.HasPrefix(name, origin+"+") {
			folders = append(folders, name)
		}
	}
	return folders
}

// Remove deletes a blob of an origin, and what is there of one that has not come whole.
// Readers that have it open read on. freed is what the disk has got back in bytes:
// nothing where another origin has delivered the same bytes, since those stay. What is
// not there is no error.
func (s *Store) Remove(origin string, d oci.Digest) (freed int64, err error) {
	if s.capacity.gone() {
		return 0, ErrGone
	}
	s.capacity.dropPartialsOf(blobKey{origin, d})
	_, err = s.capacity.removeIf(s.capacity.path(origin, d), func(now fs.FileInfo) bool {
		if st, ok := now.Sys().(*unix.Stat_t); ok && st.Nlink > 1 {
			return true
		}
		freed = now.Size()
		return true
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return freed, err
}
