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
	b.writing.Lock()
	defer b.writing.Unlock()
	if !b.end() {
		return fmt.Errorf("publishing %s: %w", b.digest, ErrDiscarded)
	}
	if err := b.publish(); err != nil {
		return fmt.Errorf("publishing %s: %w", b.digest, err)
	}
	_ = b.file.Close() // fsync has told all there is to know
	b.dropNotes()
	b.store.published(b.origin, b.digest, b.Size())
	return nil
}

// publish either publishes or drops the file. Caller holds writing.
func (b *Blocks) publish() error {
	named, err := b.store.publishFile(b.file, b.origin, b.digest, b.reserved)
	switch {
	case err != nil && named:
		_ = b.file.Close() // the error that counts is the one before
		b.dropNotes()
	case err != nil:
		b.drop()
	}
	return err
}

// publishFile gives f, which lies in tmp and holds size reserved bytes, its name.
// After an error it has no name; named says that it had one, so that it is gone
// from tmp and its bytes are reserved no more.
func (s *Store) publishFile(f *os.File, origin string, d oci.Digest, size int64) (named bool, err error) {
	path := s.path(origin, d)
	if s.Gone() { // it would be made below a mount point
		return false, ErrGone
	}
	if err := s.makeFolder(origin, d); err != nil {
		return false, err
	}
	if err := s.disk.sync(f); err != nil {
		return false, err
	}
	if err := s.room.publish(f.Name(), path, size); err != nil {
		return false, err
	}
	if err := s.disk.syncFolder(filepath.Dir(path)); err != nil {
		return true, errors.Join(err, s.room.remove(path))
	}
	return true, nil
}

// published notes that a verified blob has its name.
func (s *Store) published(origin string, d oci.Digest, size int64) {
	s.room.forget(blobKey{origin, d})
	s.checks.isGood(origin, d, size)
	s.share(origin, d, s.path(origin, d))
}

// Put keeps an object that is whole and verified in memory: written, synced and
// renamed as Publish does. The error is about our disk; ErrNoRoom if there is no
// room.
func (s *Store) Put(origin string, d oci.Digest, data []byte) error {
	size := int64(len(data))
	if err := s.room.reserve(size); err != nil {
		return err
	}
	f, err := s.newFile(d, size)
	if err != nil {
		s.room.dropped(size, 0)
		return fmt.Errorf("making a file in the cache: %w", err)
	}
	named := false
	n, err := s.disk.writeAt(f, data, 0)
	s.room.wrote(int64(n))
	if err == nil {
		named, err = s.publishFile(f, origin, d, size)
	}
	_ = f.Close() // fsync has told all there is to know
	if err != nil {
		if !named {
			_ = s.disk.remove(f.Name()) // best effort: tmp is emptied at the next start
			s.room.dropped(size, int64(n))
		}
		return fmt.Errorf("keeping %s: %w", d, err)
	}
	s.published(origin, d, size)
	return nil
}

// Discard drops the blob, unless it has been published. When its room is given
// back, readers get ErrDiscarded for what is not there yet, or the error that the
// blob was stopped with; those that have all their bytes read on.
func (b *Blocks) Discard() {
	b.Drop()
	b.Fail(ErrDiscarded)
}

// Drop is Discard without the last step: Fail must follow. It is for a caller
// that has more to give back before the readers learn of the end.
func (b *Blocks) Drop() {
	b.Stop(ErrDiscarded)
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.end() {
		b.drop()
	}
}

// end says whether the blob had not ended yet. Caller holds writing.
func (b *Blocks) end() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.ended
	b.ended = true
	return first
}

// drop gives back the file and its room. Caller holds writing.
func (b *Blocks) drop() {
	_ = b.file.Close()
	b.dropNotes()
	_ = b.store.disk.remove(b.tmp) // best effort: tmp is emptied at the next start
	b.store.room.dropped(b.reserved, b.Have())
}

func (b *Blocks) dropNotes() {
	if b.notes != nil {
		b.notes.drop(b.store.disk)
		b.notes = nil
	}
}

// share gives other origins that have delivered the same bytes this copy: each
// keeps its provenance, and the disk holds them once. It is this copy because
// it has just been verified, while theirs may have rotted since.
func (s *Store) share(origin string, d oci.Digest, path string) {
	for _, other := range s.otherOrigins(origin) {
		size, ok := s.Has(other, d)
		if !ok {
			continue
		}
		if err := s.room.link(path, s.path(other, d), s.tmp()); err != nil {
			s.o.Log.Debug("one more copy of a blob stays on the disk", "digest", d, "err", err)
			continue
		}
		if s.Verified(origin, d, size) {
			s.checks.isGood(other, d, size)
		}
	}
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
	dir := s.dir
	for _, name := range []string{"blobs", origin, d.Algorithm().String(), d.Encoded()[:2]} {
		parent := dir
		dir = filepath.Join(dir, name)
		made, err := s.disk.makeDir(dir)
		if err != nil {
			return err
		}
		if !made && s.folders[dir] {
			continue
		}
		if err := s.disk.syncFolder(parent); err != nil {
			return err
		}
		s.folders[dir] = true
	}
	s.origins[origin] = true
	return nil
}

// makeDir makes dir if it is not there. Something else in its place is an error,
// a symbolic link to a folder too.
func (d *disk) makeDir(dir string) (made bool, err error) {
	err = d.mkdir(dir)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is in the way: it is no folder", dir)
	}
	return false, err
}
