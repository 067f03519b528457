package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"berth/oci"
)

// Publish gives a verified blob its name: fsync the file, rename it, fsync its
// folder. After that no crash and no power cut takes it away, and before it
// nobody finds it under its name. On an error the blob is discarded: after a
// failed fsync the kernel may have dropped the pages and call the next fsync a
// success, so it is never tried again.
func (b *Blocks) Publish() error {
	if !b.Verified() {
		b.Discard()
		return fmt.Errorf("publishing %s: not verified", b.digest)
	}
	if err := b.publish(); err != nil {
		b.Discard()
		return fmt.Errorf("publishing %s: %w", b.digest, err)
	}
	return b.file.Close()
}

func (b *Blocks) publish() error {
	path := b.store.path(b.origin, b.digest)
	if err := b.store.makeFolder(b.origin, b.digest); err != nil {
		return err
	}
	linked, err := b.store.linkFromOther(b.origin, b.digest, b.size)
	if err != nil {
		return err
	}
	if !linked {
		if err := b.file.Sync(); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock() // OpenReader must find the file under one of its names
	if linked {
		err = os.Remove(b.path)
	} else {
		err = os.Rename(b.path, path)
	}
	if err != nil {
		return err
	}
	b.path = path
	return syncFolder(filepath.Dir(path))
}

// Discard drops the blob. Its readers get ErrDiscarded for what is not there
// yet; those that have all their bytes read on.
func (b *Blocks) Discard() {
	b.Fail(ErrDiscarded)
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.file.Close()
	_ = os.Remove(b.path) // best effort: tmp is emptied at the next start
	b.store.room.freed(b.reserved)
}

// linkFromOther gives origin a hard link where another origin has delivered
// the same bytes: two provenances, one copy. The caller has just verified its
// own copy; the other one is only trusted as far as its size.
func (s *Store) linkFromOther(origin string, d oci.Digest, size int64) (bool, error) {
	for _, other := range s.otherOrigins(origin) {
		if n, ok := s.Has(other, d); !ok || n != size {
			continue
		}
		switch err := os.Link(s.path(other, d), s.path(origin, d)); {
		case err == nil:
			return true, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist):
			return false, err
		}
	}
	return false, nil
}

func (s *Store) otherOrigins(origin string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []string
	for o := range s.origins {
		if o != origin {
			others = append(others, o)
		}
	}
	return others
}

// makeFolder makes the folders above a blob, durably: each is synced into its
// parent before anything is put into it. A folder that was there before this
// process counts as new, since its maker may not have come as far as syncing.
func (s *Store) makeFolder(origin string, d oci.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock() // held over the sync: a second publisher must wait for it too
	dir := filepath.Join(s.dir, "blobs")
	for _, name := range []string{origin, d.Algorithm().String(), d.Encoded()[:2]} {
		parent := dir
		dir = filepath.Join(dir, name)
		if s.folders[dir] {
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := syncFolder(parent); err != nil {
			return err
		}
		s.folders[dir] = true
	}
	s.origins[origin] = true
	return nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
