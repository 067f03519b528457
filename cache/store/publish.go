package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	err := b.store.publish(b.account.owner, b.file, b.origin, b.digest, b.reserved)
	b.dropNotes()
	if err != nil {
		return fmt.Errorf("publishing %s: %w", b.digest, err)
	}
	return nil
}

// DeliveredBy says that the verified blob is origin's and not that of the folder it has
// grown for. Publish must follow.
func (b *Blocks) DeliveredBy(origin string) {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.origin, b.path = origin, b.store.capacity.path(origin, b.digest)
}

// Put keeps an object that is whole and verified in memory: written, synced and
// renamed as Publish does, on the account of organisation. The error is about our
// disk; ErrNoRoom if there is no room.
func (s *Store) Put(organisation, origin string, d oci.Digest, data []byte) error {
	size := int64(len(data))
	a := account{owner: s.owner(organisation)}
	f, err := s.newFile(a, d, size)
	if err != nil {
		return err
	}
	n, err := s.disk.writeAt(f, data, 0)
	s.capacity.wrote(int64(n))
	s.capacity.uncharge(a, size)
	if err == nil {
		err = s.publish(a.owner, f, origin, d, size)
	} else {
		s.dropFile(f, size, int64(n))
	}
	if err != nil {
		return fmt.Errorf("keeping %s: %w", d, err)
	}
	return nil
}

// publish gives f, which lies in tmp and has size reserved bytes that are written
// and verified, its name. It closes f, and drops it on an error.
func (s *Store) publish(o owner, f *os.File, origin string, d oci.Digest, size int64) error {
	path := s.capacity.path(origin, d)
	var err error
	if s.Gone() { // it would be made below a mount point
		err = ErrGone
	}
	if err == nil {
		err = s.makeFolder(origin, d)
	}
	if err == nil {
		now := o.mark(time.Now())          // it says whose the file is
		_ = os.Chtimes(f.Name(), now, now) // only the order of eviction suffers
		err = s.disk.sync(f)
	}
	if err == nil {
		err = s.capacity.publish(o, f.Name(), path, size)
	}
	if err != nil {
		s.dropFile(f, size, size)
		if s.Gone() { // meanwhile: this is no fault of the disk's
			err = ErrGone
		}
		return err
	}
	_ = f.Close() // fsync has told all there is to know
	if err := s.disk.syncFolder(filepath.Dir(path)); err != nil {
		_, removeErr := s.capacity.removeIf(path, nil)
		return errors.Join(err, removeErr)
	}
	s.capacity.dropPartialsOf(blobKey{origin, d})
	s.checks.isGood(origin, d, size)
	s.share(o, origin, d, path, size)
	return nil
}

// dropFile deletes a file in tmp that has no name, and gives back its room.
func (s *Store) dropFile(f *os.File, reserved, written int64) {
	_ = f.Close()
	_ = s.disk.remove(f.Name()) // best effort: tmp is emptied at the next start
	s.capacity.giveBack(reserved, written)
}

// Discard drops the blob, unless it has been published. When its room is given
// back, readers get ErrDiscarded for what is not there yet, or the error that the
// blob was stopped with; those that have all their bytes read on.
func (b *Blocks) Discard() {
	b.Drop()
	b.Fail(ErrDiscarded)
}

// Drop deletes the blob as Discard does, and leaves it to the caller to tell its
// readers by Fail, who may have more to give back before.
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
	b.dropNotes()
	b.uncharge()
	b.store.dropFile(b.file, b.reserved, b.Have())
}

// uncharge ends what is charged for b. Caller holds writing.
func (b *Blocks) uncharge() {
	b.store.capacity.uncharge(b.account, b.charged)
	b.charged = 0
}

func (b *Blocks) dropNotes() {
	if b.notes != nil {
		b.notes.drop(b.store.disk)
		b.notes = nil
	}
}

// mostOrigins bounds at how many origins share looks for the same bytes. An organisation can
// bring any number of registries, each of which costs a look.
const mostOrigins = 32

// share gives other origins that have delivered the same bytes, for the same organisation,
// this copy: each keeps its provenance, and the disk holds them once. It is this copy
// because it has just been verified, while theirs may have rotted since. Origins that have
// delivered nothing for o are not looked at: there may be thousands.
func (s *Store) share(o owner, origin string, d oci.Digest, path string, size int64) {
	s.capacity.mu.Lock()
	others := slices.Clone(s.capacity.origins[o])
	s.capacity.mu.Unlock()
	for _, other := range others {
		if other == origin {
			continue
		}
		if _, _, err := s.Stat(other, d); err != nil {
			continue
		}
		if err := s.capacity.link(path, s.capacity.path(other, d), s.tmp()); err != nil {
			s.o.Log.Debug("one more copy of a blob stays on the disk", "digest", d, "err", err)
			continue
		}
		if s.Verified(origin, d, size) {
			s.checks.isGood(other, d, size)
		}
	}
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

// publish renames a blob of size bytes, which were reserved for it and written,
// to path.
func (c *capacity) publish(o owner, tmp, path string, size int64) error {
	c.names.Lock()
	defer c.names.Unlock()
	before, err := os.Lstat(path)
	if err == nil && before.IsDir() { // nobody's blob; a rename cannot replace it
		if err := c.disk.rename(path, path+".foreign"); err != nil {
			return err
		}
	}
	if err := c.disk.rename(tmp, path); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before != nil && before.Mode().IsRegular() {
		c.add(filepath.Dir(path), -before.Size(), -1)
	}
	c.growing -= size
	c.delivered(o, path)
	c.add(filepath.Dir(path), size, 1)
	return nil
}

// delivered notes the origin of the blob at path as that which has delivered something for o
// last. Caller holds mu.
func (c *capacity) delivered(o owner, path string) {
	origin, _, _ := strings.Cut(path[len(c.blobs)+1:], "/")
	of := c.origins[o]
	if i := slices.Index(of, origin); i >= 0 {
		of = slices.Delete(of, i, i+1)
	}
	of = slices.Insert(of, 0, origin)
	c.origins[o] = of[:min(len(of), mostOrigins)]
}

// link puts the file at from, which is new, in the place of the one at path, if
// that is another one, has its size and is kept for the same organisation: a file says
// for whom, and who brings the bytes of another's blob must not make that one his.
func (c *capacity) link(from, path, tmp string) error {
	c.names.Lock()
	defer c.names.Unlock()
	ours, err := os.Lstat(from)
	if err != nil {
		return err
	}
	theirs, err := os.Lstat(path)
	if err != nil || ours.Size() != theirs.Size() || os.SameFile(ours, theirs) || markedBy(ours.ModTime()) != markedBy(theirs.ModTime()) {
		return err
	}
	// A link cannot replace a file, but a rename can.
	linked := filepath.Join(tmp, filepath.Base(path)+".link")
	if err := c.disk.link(from, linked); err != nil {
		return err
	}
	if err := c.disk.rename(linked, path); err != nil {
		_ = c.disk.remove(linked) // best effort: tmp is emptied at the next start
		return err
	}
	return nil
}

// removeIf deletes the blob at path if ok says so; nil: in any case.
func (c *capacity) removeIf(path string, ok func(fs.FileInfo) bool) (done bool, err error) {
	c.names.Lock()
	defer c.names.Unlock()
	info, err := os.Lstat(path)
	if err != nil || ok != nil && !ok(info) {
		return false, err
	}
	if err := c.disk.remove(path); err != nil {
		return false, err
	}
	parts := strings.Split(path[len(c.blobs):], "/")
	c.checks.forget(parts[1], parts[len(parts)-1])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(filepath.Dir(path), -info.Size(), -1)
	return true, nil
}
