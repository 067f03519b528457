package cache

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"berth/cache/store"
	"berth/oci"
)

// lookEvery is how often the folder is looked at: whether it is still there, and
// whether one that was not is.
const lookEvery = 5 * time.Second

// folder is the store while its folder can be used, and nothing while it cannot:
// then nothing is found, and what is pulled goes past the disk. A folder that is
// unmounted, emptied or replaced under the process is left, and whatever is there
// afterwards is opened anew, with limits of its own.
type folder struct {
	dir  string
	open func() (*store.Store, error)
	// reopened is called when the folder is used again, or another in its place.
	reopened func()
	log      *slog.Logger

	now atomic.Pointer[store.Store] // nil: the folder cannot be used

	mu     sync.Mutex // held while the folder is opened or left
	place  store.Place
	why    error // now is nil because of it
	closed bool
	// What stores before this one have counted.
	evicted int64
	failed  map[store.Op]int64
}

// errNotThere is of a blob that is not kept since nothing is.
var errNotThere = &fs.PathError{Op: "open", Path: "the cache folder", Err: fs.ErrNotExist}

// errUnmounted says what is wrong, and what to do.
var errUnmounted = errors.New("its filesystem was unmounted: mount it again, or restart berth to use what is there now")

// begin opens the folder. What is the operator's to decide is an error: another
// process that uses it, or a folder that was something else.
func (f *folder) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.reopen()
	if errors.Is(err, store.ErrInUse) || errors.Is(err, store.ErrForeign) {
		return err
	}
	if err != nil {
		f.log.Error("the cache folder cannot be used: pulls go past the disk until it can", "dir", f.dir, "err", err)
	}
	return nil
}

// reopen takes what is in the folder's place now. Caller holds mu.
func (f *folder) reopen() error {
	if f.place.Unmounted(f.dir) {
		f.why = errUnmounted
		return f.why
	}
	s, err := f.open()
	if f.why = err; err != nil {
		return err
	}
	f.place = s.Place()
	f.now.Store(s)
	return nil
}

// there is the store, if its folder still is what was opened. One that is not is
// left at once, before anything is written below a mount point.
func (f *folder) there() (*store.Store, error) {
	s := f.now.Load()
	if s != nil && !s.Gone() {
		return s, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now.Load(); now != s || s == nil || f.closed { // it was looked after, or is not to be
		if now == nil {
			return nil, f.why
		}
		return now, nil
	}
	f.leave(s)
	if err := f.reopen(); err != nil {
		f.log.Error("the cache folder is not where it was: pulls go past the disk until it is back", "dir", f.dir, "err", err)
		return nil, err
	}
	f.reopened()
	f.log.Warn("the cache folder was emptied or replaced; what is there now is used", "dir", f.dir)
	return f.now.Load(), nil
}

// isGone says that there is nothing to fail: whatever went wrong is due to that.
func (f *folder) isGone() bool {
	s := f.now.Load()
	return s == nil || s.Gone()
}

// look is there, and tries again what could not be used.
func (f *folder) look() {
	if s, _ := f.there(); s != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.now.Load() != nil {
		return
	}
	if f.reopen() == nil {
		f.reopened()
		f.log.Info("the cache folder can be used again", "dir", f.dir)
	}
}

// leave closes s. What grows in it ends in errors of the disk. Caller holds mu.
func (f *folder) leave(s *store.Store) {
	f.now.Store(nil)
	_ = s.Close() // it was only locked
	f.evicted += s.Usage().Evicted
	if f.failed == nil {
		f.failed = map[store.Op]int64{}
	}
	for op, n := range s.Failures() {
		f.failed[op] += n
	}
}

// close ends it.
func (f *folder) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if s := f.now.Load(); s != nil {
		return s.Close()
	}
	return nil
}

// trouble is why the folder cannot be used; nil: it can.
func (f *folder) trouble() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now.Load() != nil {
		return nil
	}
	return f.why
}

// unusable says whether nothing can be kept. While the folder is opened anew nobody
// knows, and it waits: what is pulled in that moment is kept as well.
func (f *folder) unusable() bool { return f.now.Load() == nil && f.trouble() != nil }

// counted is what all stores have, and since.
func (f *folder) counted() (u store.Usage, limit int64, failed map[store.Op]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	failed = map[store.Op]int64{}
	if s := f.now.Load(); s != nil {
		u, limit = s.Usage(), s.Limit()
		failed = s.Failures()
	}
	u.Evicted += f.evicted
	for op, n := range f.failed {
		failed[op] += n
	}
	return u, limit, failed
}

// The rest is what store.Store has, and of nothing where there is none.

func (f *folder) Limit() int64 {
	if s := f.now.Load(); s != nil {
		return s.Limit()
	}
	return 0
}

func (f *folder) size() int64 {
	if s := f.now.Load(); s != nil {
		return s.Usage().Bytes
	}
	return 0
}

func (f *folder) OpenBlob(origin string, d oci.Digest) (*os.File, int64, error) {
	if s := f.now.Load(); s != nil {
		return s.OpenBlob(origin, d)
	}
	return nil, 0, errNotThere
}

func (f *folder) Stat(origin string, d oci.Digest) (size int64, used time.Time, err error) {
	if s := f.now.Load(); s != nil {
		return s.Stat(origin, d)
	}
	return 0, time.Time{}, errNotThere
}

func (f *folder) Use(origin string, d oci.Digest) {
	if s := f.now.Load(); s != nil {
		s.Use(origin, d)
	}
}

func (f *folder) Verified(origin string, d oci.Digest, size int64) bool {
	s := f.now.Load()
	return s != nil && s.Verified(origin, d, size)
}

func (f *folder) Check(origin string, d oci.Digest, file *os.File, size int64) *store.Check {
	if s := f.now.Load(); s != nil {
		return s.Check(origin, d, file, size)
	}
	return store.Unchecked(store.ErrGone)
}

func (f *folder) Quarantine(origin string, d oci.Digest, file *os.File, why error) {
	if s := f.now.Load(); s != nil {
		s.Quarantine(origin, d, file, why)
	}
}

func (f *folder) Look(origin string, d oci.Digest, limit int64) ([]byte, error) {
	if s := f.now.Load(); s != nil {
		return s.Look(origin, d, limit)
	}
	return nil, errNotThere
}

func (f *folder) PartialSize(origin string, d oci.Digest) (size int64, ok bool) {
	if s, _ := f.there(); s != nil {
		return s.PartialSize(origin, d)
	}
	return 0, false
}

func (f *folder) Resume(origin string, d oci.Digest) (*store.Blocks, bool) {
	if s, _ := f.there(); s != nil {
		return s.Resume(origin, d)
	}
	return nil, false
}

func (f *folder) NewBlocks(origin string, d oci.Digest, size int64) (*store.Blocks, error) {
	s, err := f.there()
	if err != nil {
		return nil, err
	}
	return s.NewBlocks(origin, d, size)
}

// Put keeps an object that is whole.
func (f *folder) Put(origin string, d oci.Digest, data []byte) error {
	s, err := f.there()
	if err != nil {
		return err
	}
	return s.Put(origin, d, data)
}
