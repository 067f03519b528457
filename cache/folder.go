package cache

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"berth/cache/store"
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

	now  atomic.Pointer[store.Store] // nil: the folder cannot be used
	none *store.Store

	mu     sync.Mutex // held while the folder is opened or left
	place  store.Place
	why    error // now is nil because of it
	closed bool
	// What stores before this one have counted.
	evicted int64
	failed  map[store.Op]int64
}

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

// store is the one whose folder was opened last; store.None if it cannot be used.
func (f *folder) store() *store.Store {
	if s := f.now.Load(); s != nil {
		return s
	}
	return f.none
}

// there is the store, if its folder still is what was opened. One that is not is
// left at once, before anything is written below a mount point.
func (f *folder) there() *store.Store {
	s := f.now.Load()
	if s != nil && !s.Gone() {
		return s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s == nil || f.now.Load() != s || f.closed { // it was looked after, or is not to be
		return f.store()
	}
	f.leave(s)
	if err := f.reopen(); err != nil {
		f.log.Error("the cache folder is not where it was: pulls go past the disk until it is back", "dir", f.dir, "err", err)
		return f.none
	}
	f.reopened()
	f.log.Warn("the cache folder was emptied or replaced; what is there now is used", "dir", f.dir)
	return f.store()
}

// isGone says that there is nothing to fail: whatever went wrong is due to that.
func (f *folder) isGone() bool {
	s := f.now.Load()
	return s == nil || s.Gone()
}

// look leaves a folder that is gone, and tries again one that could not be used.
func (f *folder) look() {
	if f.there() != f.none {
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
	s := f.store()
	u, failed = s.Usage(), map[store.Op]int64{}
	u.Evicted += f.evicted
	for _, counts := range []map[store.Op]int64{f.failed, s.Failures()} {
		for op, n := range counts {
			failed[op] += n
		}
	}
	return u, s.Limit(), failed
}
