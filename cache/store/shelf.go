package store

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/descriptor"
	"berth/oci"
)

// shelfLife is how long the beginning of a blob is kept for who wants the rest.
const shelfLife = 24 * time.Hour

// leftover is a part of a blob that nobody fetches now. Its bytes count as
// growing ones, and are the first to go when room is wanted.
type leftover struct {
	tmp    string
	size   int64
	have   int64
	filled map[int64]int64
	since  time.Time
}

type blobKey struct {
	origin string
	digest oci.Digest
}

// Leave gives up the blob as Discard does, but what is there stays for who
// wants it next (Resume): for a day, also over a restart, unless its room is
// needed. What is wrong, or too small to be worth it, is discarded.
func (b *Blocks) Leave() {
	b.Shelve()
	b.Fail(ErrDiscarded)
}

// Shelve is to Leave what Drop is to Discard: Fail must follow.
func (b *Blocks) Shelve() {
	b.Stop(ErrDiscarded)
	b.writing.Lock()
	defer b.writing.Unlock()
	if !b.end() {
		return
	}
	l := b.leftover()
	if l == nil {
		b.drop()
		return
	}
	_ = b.file.Close() // what could not be written was not counted
	_ = b.notes.file.Close()
	b.store.room.leave(blobKey{b.origin, b.digest}, l, b.reserved)
}

func (b *Blocks) leftover() *leftover {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.notes == nil || b.wrong || b.have < BlockSize {
		return nil
	}
	// A copy, since b's readers read on from what is there while the next one fills it.
	return &leftover{tmp: b.tmp, size: b.size, have: b.have, filled: maps.Clone(b.filled), since: time.Now()}
}

// Left says whether something is left of a blob, and what size all of it has.
func (s *Store) Left(origin string, d oci.Digest) (size int64, ok bool) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	l := s.room.shelf[blobKey{origin, d}]
	if l == nil {
		return 0, false
	}
	return l.size, true
}

// Resume takes up what was left of a blob. It is not verified, and says nothing
// about who may have it. ok is false where nothing was left, or there is no room
// for the rest.
func (s *Store) Resume(origin string, d oci.Digest) (b *Blocks, ok bool) {
	key := blobKey{origin, d}
	l := s.room.pickUp(key)
	if l == nil {
		return nil, false
	}
	b, err := s.resume(key, l)
	switch {
	case err == nil:
		return b, true
	case descriptor.Exhausted(err): // it stays for the next one
		s.room.leave(key, l, l.have)
	default:
		s.room.discard(l)
	}
	return nil, false
}

func (s *Store) resume(key blobKey, l *leftover) (*Blocks, error) {
	if time.Since(l.since) > shelfLife {
		return nil, fs.ErrNotExist
	}
	if err := s.room.reserve(l.size - l.have); err != nil {
		return nil, err
	}
	b, err := s.reopen(key, l)
	if err != nil {
		s.room.dropped(l.size-l.have, 0)
		s.o.Log.Debug("what was left of a download is of no use", "digest", key.digest, "err", err)
		return nil, err
	}
	return b, nil
}

// reopen opens the files of a leftover.
func (s *Store) reopen(key blobKey, l *leftover) (*Blocks, error) {
	f, err := s.disk.openFile(l.tmp, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != l.size) {
		err = fmt.Errorf("%s is not what it was", l.tmp)
	}
	var n *notes
	if err == nil {
		n, err = s.disk.reopenNotes(l.tmp, l.size)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	b := s.newBlocks(key.origin, key.digest, f, l.size)
	b.reserved, b.notes, b.filled, b.have = l.size, n, l.filled, l.have
	return b, nil
}

func (d *disk) reopenNotes(tmp string, size int64) (*notes, error) {
	said, bits, err := d.readNotes(tmp + notesSuffix)
	if err != nil {
		return nil, err
	}
	f, err := d.openFile(tmp+notesSuffix, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && said.Size != size {
		err = errBadNotes
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return &notes{file: f, head: info.Size() - int64(len(bits)), bits: bits}, nil
}

// tidyTmp puts on the shelf what the process before this one has left of blobs,
// and deletes everything else in tmp.
func (s *Store) tidyTmp() error {
	entries, err := s.disk.readDir(s.tmp())
	if err != nil {
		return err
	}
	stays := map[string]bool{}
	for _, e := range entries {
		tmp, ok := strings.CutSuffix(e.Name(), notesSuffix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if key, l := s.found(filepath.Join(s.tmp(), tmp)); l != nil && s.room.adopt(key, l) {
			stays[e.Name()], stays[tmp] = true, true
		}
	}
	for _, e := range entries {
		if stays[e.Name()] {
			continue
		}
		path := filepath.Join(s.tmp(), e.Name())
		if err := s.disk.do(OpRemove, path, func() error { return os.RemoveAll(path) }); err != nil {
			s.o.Log.Warn("what another process left in tmp stays", "err", err)
		}
	}
	return nil
}

// found is what lies at tmp, if its notes are good and of this boot.
func (s *Store) found(tmp string) (blobKey, *leftover) {
	said, bits, err := s.disk.readNotes(tmp + notesSuffix)
	if err != nil || said.Boot == "" || said.Boot != s.o.Boot {
		return blobKey{}, nil
	}
	info, err := os.Lstat(tmp)
	if err != nil || !info.Mode().IsRegular() || info.Size() != said.Size {
		return blobKey{}, nil
	}
	// Each block that comes moves the file's time.
	l := &leftover{tmp: tmp, size: said.Size, since: info.ModTime()}
	l.filled, l.have = filledBy(bits, said.Size)
	if l.have == 0 || time.Since(l.since) > shelfLife {
		return blobKey{}, nil
	}
	return blobKey{said.Origin, said.Digest}, l
}

// leave puts l on the shelf. Its bytes stay reserved, of those that were
// reserved for the whole.
func (r *room) leave(key blobKey, l *leftover, reserved int64) {
	r.mu.Lock()
	r.growing -= reserved - l.have
	r.unwritten -= reserved - l.have
	old := r.shelf[key]
	r.shelf[key] = l
	r.mu.Unlock()
	if old != nil {
		r.discard(old)
	}
}

// adopt is leave for what another process left.
func (r *room) adopt(key blobKey, l *leftover) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shelf[key] != nil {
		return false
	}
	r.shelf[key] = l
	r.growing += l.have
	return true
}

// pickUp takes a leftover off the shelf. Nil: there is none.
func (r *room) pickUp(key blobKey) *leftover {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.shelf[key]
	delete(r.shelf, key)
	return l
}

// discard deletes a leftover that is on the shelf no more.
func (r *room) discard(l *leftover) {
	_ = r.disk.remove(l.tmp) // best effort: it goes at the next start
	_ = r.disk.remove(l.tmp + notesSuffix)
	r.dropped(l.have, l.have)
}

// forget discards what is left of a blob that somebody fetches from the start,
// or that is whole.
func (r *room) forget(key blobKey) {
	if l := r.pickUp(key); l != nil {
		r.discard(l)
	}
}

// clear discards the oldest leftover, if it is older than age.
func (r *room) clear(age time.Duration) bool {
	l := r.pickUpOldest(age)
	if l != nil {
		r.discard(l)
	}
	return l != nil
}

func (r *room) pickUpOldest(age time.Duration) *leftover {
	r.mu.Lock()
	defer r.mu.Unlock()
	var oldest blobKey
	var at *leftover
	for key, l := range r.shelf {
		if at == nil || l.since.Before(at.since) {
			oldest, at = key, l
		}
	}
	if at == nil || time.Since(at.since) < age {
		return nil
	}
	delete(r.shelf, oldest)
	return at
}

// shelved is how many bytes would be free if no leftover were kept. Caller
// holds mu.
func (r *room) shelved() (sum int64) {
	for _, l := range r.shelf {
		sum += l.have
	}
	return sum
}
