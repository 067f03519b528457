package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ErrNoRoom says that a blob does not fit, even after evicting what could go. It
// comes as a NoRoom.
var ErrNoRoom = errors.New("no room in the cache")

// Lack is what there is too little of.
type Lack string

// The lacks.
const (
	// LackLimit: the blob is larger than all that may be kept.
	LackLimit Lack = "too_large"
	// LackBusy: what is growing takes what may be kept.
	LackBusy Lack = "busy"
	// LackBytes: the disk is full, and not with what could go.
	LackBytes Lack = "bytes"
	// LackInodes: it can hold no more files.
	LackInodes Lack = "inodes"
)

// NoRoom is an ErrNoRoom and its reason.
type NoRoom struct {
	Bytes int64 // that were wanted
	Lack  Lack
}

func (e *NoRoom) Error() string {
	return fmt.Sprintf("%v: %d bytes (%s)", ErrNoRoom, e.Bytes, e.Lack)
}

// Is says that it is an ErrNoRoom.
func (e *NoRoom) Is(target error) bool { return target == ErrNoRoom }

// noRoom says why n bytes do not fit.
func (r *room) noRoom(n int64) error {
	has := r.disk.space(r.blobs)
	r.mu.Lock()
	defer r.mu.Unlock()
	lack := LackBytes
	switch {
	case r.o.MaxSize > 0 && n > r.o.MaxSize, has.total > 0 && n > has.total-r.o.MinFree:
		lack = LackLimit
	case has.files < minInodes:
		lack = LackInodes
	case r.o.MaxSize > 0 && n > r.o.MaxSize-r.growing+r.shelved():
		lack = LackBusy
	}
	return &NoRoom{n, lack}
}

// countWait is how long reservations wait for the first count of the folder, from
// its start. Only a very large cache takes longer; it then goes over its limit by
// what is fetched until then, and the sweep that follows the count sets that right.
const countWait = 2 * time.Second

// room accounts for the bytes of the folder and evicts the least recently used
// blobs. Growing blobs count from the moment that they are reserved.
type room struct {
	blobs string
	o     Options
	disk  *disk
	// gone says that blobs is another folder now, from which nothing may go.
	gone func() bool
	// checks forgets what goes.
	checks *checks

	// names is held while a name under blobs changes, so that the name and what
	// is counted change together. It comes before mu.
	names sync.Mutex

	mu        sync.Mutex
	kept      int64 // bytes of published blobs, and how many there are
	blobCount int64
	evicted   int64 // blobs, since the start
	growing   int64 // reserved for growing blobs
	shelf     map[blobKey]*leftover
	unwritten int64 // of growing: what the filesystem does not know of yet
	foreign   int64 // files that are no blobs
	// tallies are what kept and blobCount sum up, by leaf.
	tallies map[string]tally
	// changed is what was published (its size) or removed (gone) in the leaf
	// walked since a look at it began: what it saw of those does not count. Nil:
	// none is under way.
	walked  string
	changed map[string]int64

	evicting sync.Mutex    // one walk at a time
	counted  chan struct{} // closed after the first
	begun    time.Time     // when that was begun
	tight    chan struct{} // wakes the sweeper

	ctx    context.Context // of the sweep
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// gone in room.changed is a blob that was removed.
const gone = -1

func newRoom(blobs string, o Options, d *disk, c *checks, gone func() bool) *room {
	ctx, cancel := context.WithCancel(context.Background())
	r := &room{
		blobs: blobs, o: o, disk: d, checks: c, gone: gone, ctx: ctx, cancel: cancel, shelf: map[blobKey]*leftover{}, tallies: map[string]tally{},
		counted: make(chan struct{}), tight: make(chan struct{}, 1),
	}
	return r
}

func (r *room) start() {
	r.begun = time.Now()
	r.wg.Go(func() { r.sweep(r.ctx) })
}

func (r *room) close() {
	r.cancel()
	r.wg.Wait()
}

// largestBlob is more than any registry takes. A registry can say any size: sums
// with larger ones could come out negative, and small.
const largestBlob = maxNotes * 8 * BlockSize

// reserve takes n bytes. It evicts only where the sweeper did not keep up.
func (r *room) reserve(n int64) error {
	if n > largestBlob {
		return &NoRoom{n, LackLimit}
	}
	if r.o.MaxSize > 0 {
		r.waitForCount()
	}
	if r.ctx.Err() != nil {
		return ErrGone
	}
	for !r.take(n) {
		if !r.possible(n) {
			return r.noRoom(n)
		}
		if !r.waitForCount() { // and to evict would wait for its end
			return &NoRoom{n, LackBusy}
		}
		progress, err := r.evict(context.Background(), n)
		if err != nil {
			return fmt.Errorf("evicting: %w", err)
		}
		if !progress {
			return r.noRoom(n)
		}
	}
	return nil
}

// isCounted says whether the first count is over.
func (r *room) isCounted() bool {
	select {
	case <-r.counted:
		return true
	default:
		return false
	}
}

// waitForCount says whether it is over by countWait.
func (r *room) waitForCount() bool {
	if r.isCounted() {
		return true
	}
	wait := time.NewTimer(countWait - time.Since(r.begun))
	defer wait.Stop()
	select {
	case <-r.counted:
		return true
	case <-wait.C:
		return false
	}
}

func (r *room) take(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.free() - n
	if left < 0 {
		return false
	}
	r.growing += n
	r.unwritten += n
	if left < r.margin()/2 {
		select {
		case r.tight <- struct{}{}:
		default: // it is on its way
		}
	}
	return true
}

// free is how many bytes fit. It may be negative. Caller holds mu.
func (r *room) free() int64 {
	free := r.available() - r.unwritten - r.o.MinFree
	if r.o.MaxSize > 0 {
		free = min(free, r.o.MaxSize-r.kept-r.growing)
	}
	return free
}

// minInodes is how many files a filesystem has left when it counts as full.
const minInodes = 8

// available is what the filesystem has left.
func (r *room) available() int64 {
	has := r.disk.space(r.blobs)
	if has.files < minInodes {
		return 0
	}
	return has.free
}

// margin is what the sweeper keeps free, so that a reservation need not wait.
func (r *room) margin() int64 {
	margin := r.disk.space(r.blobs).total
	if r.o.MaxSize > 0 {
		margin = min(margin, r.o.MaxSize)
	} else if r.o.MinFree > 0 {
		margin = min(margin, r.o.MinFree)
	}
	return margin / 20
}

// possible says whether n bytes would fit if all blobs and leftovers went. If
// not, none should.
func (r *room) possible(n int64) bool {
	has := r.disk.space(r.blobs)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isCounted() {
		return r.fits(n, has, gain{r.kept, r.blobCount})
	}
	return r.o.MaxSize <= 0 || r.growing-r.shelved()+n <= r.o.MaxSize
}

// gain is what the filesystem would have more of.
type gain struct{ bytes, files int64 }

// fits says whether n bytes would fit if g came free and all leftovers went, and
// only what grows stayed within the limit. Caller holds mu.
func (r *room) fits(n int64, has space, g gain) bool {
	g.bytes += r.shelved()
	g.files += 2 * int64(len(r.shelf)) // with their notes
	switch {
	case r.o.MaxSize > 0 && n > r.o.MaxSize-r.growing+r.shelved():
		return false
	case has.files < minInodes && has.files+g.files < minInodes:
		return false
	}
	return has.free-r.unwritten-r.o.MinFree+g.bytes >= n
}

// enough says whether n bytes fit.
func (r *room) enough(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.free() >= n
}

// wrote says that n reserved bytes have been written.
func (r *room) wrote(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwritten -= n
}

// dropped gives back what was reserved for a blob of which written bytes were
// written.
func (r *room) dropped(reserved, written int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.growing -= reserved
	r.unwritten -= reserved - written
}

// publish renames a blob of size bytes, which were reserved for it and written,
// to path.
func (r *room) publish(tmp, path string, size int64) error {
	r.names.Lock()
	defer r.names.Unlock()
	before, err := os.Lstat(path)
	if err == nil && before.IsDir() { // nobody's blob; a rename cannot replace it
		if err := r.disk.rename(path, path+".foreign"); err != nil {
			return err
		}
	}
	if err := r.disk.rename(tmp, path); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if before != nil && before.Mode().IsRegular() {
		r.add(filepath.Dir(path), -before.Size(), -1)
	}
	r.growing -= size
	r.add(filepath.Dir(path), size, 1)
	r.note(path, size)
	return nil
}

// link puts the file at from, which is new, in the place of the one at path, if
// that is another one and has its size.
func (r *room) link(from, path, tmp string) error {
	r.names.Lock()
	defer r.names.Unlock()
	ours, err := os.Lstat(from)
	if err != nil {
		return err
	}
	theirs, err := os.Lstat(path)
	if err != nil || ours.Size() != theirs.Size() || os.SameFile(ours, theirs) {
		return err
	}
	// A link cannot replace a file, but a rename can.
	linked := filepath.Join(tmp, filepath.Base(path)+".link")
	if err := r.disk.link(from, linked); err != nil {
		return err
	}
	if err := r.disk.rename(linked, path); err != nil {
		_ = r.disk.remove(linked) // best effort: tmp is emptied at the next start
		return err
	}
	return nil
}

// forgetCheck forgets that the blob at path was good.
func (r *room) forgetCheck(path string) {
	parts := strings.Split(path[len(r.blobs):], "/")
	r.checks.gone(parts[1], parts[len(parts)-1])
}

// remove deletes the blob at path.
func (r *room) remove(path string) error {
	_, err := r.removeIf(path, func(fs.FileInfo) bool { return true })
	return err
}

// removeIf deletes the blob at path if ok says so.
func (r *room) removeIf(path string, ok func(fs.FileInfo) bool) (done bool, err error) {
	r.names.Lock()
	defer r.names.Unlock()
	info, err := os.Lstat(path)
	if err != nil || !ok(info) {
		return false, err
	}
	if err := r.disk.remove(path); err != nil {
		return false, err
	}
	r.forgetCheck(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(filepath.Dir(path), -info.Size(), -1)
	r.note(path, gone)
	return true, nil
}
