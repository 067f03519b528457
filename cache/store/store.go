// Package store keeps blobs on disk: it opens published ones by their path,
// takes in growing ones block by block (Blocks), checks them against their
// digest, publishes them so that a crash leaves a whole file or none, and keeps
// the folder within its size.
//
// The folder is the only truth; nothing needs an index to be served. A blob
// lies under the origin that delivered it in full, so opening the path is the
// proof of where it came from. Who may read it is decided elsewhere, and so is
// what to fetch.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// Options of Open. The zero value works.
type Options struct {
	// MaxSize in bytes of everything kept, growing blobs included. If 0, no
	// limit but the disk's.
	MaxSize int64
	// MinFree in bytes is left to others on the filesystem.
	MinFree int64
	// Log gets what an operator should know. If nil, nothing is logged.
	Log *slog.Logger
}

// Store is one cache folder. It is safe for concurrent use.
type Store struct {
	dir  string
	o    Options
	lock *os.File
	room *room

	mu      sync.Mutex
	origins map[string]bool // origin folders that exist
	folders map[string]bool // folders known to be durable
}

// ErrInUse is returned by Open when another process has the folder.
var ErrInUse = errors.New("another process uses this cache folder")

// Open takes the folder for this process, makes it where needed, and empties
// its tmp: what lies there belongs to a process that is gone.
func Open(dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{dir, filepath.Join(dir, "blobs"), filepath.Join(dir, "tmp")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("making the cache folder: %w", err)
		}
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, o: o, lock: lock, origins: map[string]bool{}, folders: map[string]bool{}}
	if err := s.prepare(); err != nil {
		_ = lock.Close() // the first error counts
		return nil, err
	}
	s.room = newRoom(filepath.Join(dir, "blobs"), o)
	return s, nil
}

func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cache folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("%w (%s): stop it, or give this one another --cache", ErrInUse, dir)
	}
	return f, nil
}

func (s *Store) prepare() error {
	tag := "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of container images. See https://bford.info/cachedir/\n"
	if err := os.WriteFile(filepath.Join(s.dir, "CACHEDIR.TAG"), []byte(tag), 0o600); err != nil {
		return fmt.Errorf("preparing the cache folder: %w", err)
	}
	old, err := os.ReadDir(s.tmp())
	if err != nil {
		return fmt.Errorf("reading tmp: %w", err)
	}
	for _, e := range old {
		if err := os.RemoveAll(filepath.Join(s.tmp(), e.Name())); err != nil {
			return fmt.Errorf("emptying tmp: %w", err)
		}
	}
	origins, err := os.ReadDir(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return fmt.Errorf("reading blobs: %w", err)
	}
	for _, e := range origins {
		s.origins[e.Name()] = true
	}
	return nil
}

// Close ends the background work and lets another process take the folder.
// Files that are open stay readable.
func (s *Store) Close() error {
	s.room.close()
	return s.lock.Close()
}

// Dir is the folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

// path is the only place where a blob's file name is made. Both parts are safe:
// an Origin's Dir has no separators, and a Digest is checked lower-case hex.
func (s *Store) path(origin string, d oci.Digest) string {
	hex := d.Encoded()
	return s.dir + "/blobs/" + origin + "/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex
}

// OpenBlob opens the blob that origin delivered, and tells its size. A blob that
// is not there is fs.ErrNotExist; an empty file where a blob should be is a
// trace of a lost write, and not there either.
func (s *Store) OpenBlob(origin string, d oci.Digest) (*os.File, int64, error) {
	f, err := os.Open(s.path(origin, d))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close() // only read from
		return nil, 0, err
	}
	s.room.used(f.Name(), info)
	return f, info.Size(), nil
}

// Has says whether the blob of origin is there.
func (s *Store) Has(origin string, d oci.Digest) (size int64, ok bool) {
	info, err := os.Stat(s.path(origin, d))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// Remove deletes the blob of origin. Who has it open reads on.
func (s *Store) Remove(origin string, d oci.Digest) error {
	path := s.path(origin, d)
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("removing a blob: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing a blob: %w", err)
	}
	s.room.freed(info.Size())
	return nil
}
