package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"berth/cache/store"
	"berth/internal/pause"
)

const (
	// lookEvery is how often the folder is looked at: whether it is still there, and
	// whether one that was not is.
	lookEvery = 5 * time.Second
	// openFor is how long somebody waits while the folder is opened: that takes some
	// milliseconds, but on a disk that hangs.
	openFor = 5 * time.Second
)

// folder is the store while its folder can be used, and nothing while it cannot:
// then nothing is found, and what is pulled goes past the disk. A folder that is
// unmounted, emptied or replaced under the process is left, and whatever is there
// afterwards is opened anew, with limits of its own. While the disk hangs nothing is
// found there either.
//
// Only one goroutine opens and closes stores; others wait for it with a limit.
type folder struct {
	dir  string
	open func() (*store.Store, error)
	// reopened is called when the folder is used again, or another in its place.
	reopened func()
	log      *slog.Logger

	now  atomic.Pointer[store.Store] // nil: the folder cannot be used
	none *store.Store

	mu      sync.Mutex // guards all below; nobody who holds it looks at the disk
	opening *opening   // nil: none is under way
	place   store.Place
	why     error // now is nil because of it
	closed  bool
	// What stores before this one have counted.
	evicted int64
	failed  map[store.Op]int64
}

// opening is the folder being opened.
type opening struct {
	old   *store.Store // in whose place; it is closed first. It may be nil
	began time.Time
	done  chan struct{}
	// late: the folder cannot be used, as far as anybody knows: so it was when this
	// began, or somebody has stopped waiting. Guarded by folder.mu.
	late bool
}

// errUnmounted says what is wrong, and what to do.
var errUnmounted = errors.New("its filesystem was unmounted: mount it again, or restart berth to use what is there now")

// errHangs is why a folder cannot be used that does not answer.
func (f *folder) errHangs(since time.Time) error {
	return fmt.Errorf("the disk of %s does not answer for %v: see to it; berth uses it again when it does", f.dir, max(time.Since(since).Round(time.Second), time.Second))
}

// begin opens the folder. What is the operator's to decide is an error: another
// process that uses it, or a folder that was something else.
func (f *folder) begin() (usable bool, err error) {
	err = f.openAnew(nil)
	if errors.Is(err, store.ErrInUse) || errors.Is(err, store.ErrForeign) {
		return false, err
	}
	if err != nil {
		f.log.Error("the cache folder cannot be used: pulls go past the disk until it can", "dir", f.dir, "err", err)
	}
	return err == nil, nil
}

// openAnew takes what is in the folder's place now, in the place of old, unless that has
// been done already. It waits for it, but not for ever. The error is why the folder
// cannot be used.
func (f *folder) openAnew(old *store.Store) error {
	f.mu.Lock()
	o := f.opening
	if o == nil && (f.closed || f.now.Load() != old) {
		defer f.mu.Unlock()
		return f.why
	}
	if o == nil {
		o = &opening{old: old, began: time.Now(), late: f.why != nil, done: make(chan struct{})}
		f.opening = o
		f.now.Store(nil)
		go f.reopen(o)
	}
	f.mu.Unlock()
	return f.wait(o)
}

// wait waits for the end of o, or for openFor. The error is why the folder cannot be used.
func (f *folder) wait(o *opening) error {
	_, _ = pause.Until(context.Background(), o.done, openFor)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opening == o {
		o.late, f.why = true, f.errHangs(o.began)
	}
	return f.why
}

// reopen is the goroutine that may hang.
func (f *folder) reopen(o *opening) {
	defer close(o.done)
	if o.old != nil {
		f.leave(o.old)
	}
	f.mu.Lock()
	place := f.place
	f.mu.Unlock()
	var s *store.Store
	err := errUnmounted
	if !place.Unmounted(f.dir) {
		s, err = f.open()
	}
	f.mu.Lock()
	f.opening = nil
	if f.closed && s != nil {
		f.mu.Unlock()
		_ = s.Close() // nobody has used it
		return
	}
	if f.why = err; err == nil {
		f.place = s.Place()
		f.now.Store(s)
	}
	late := o.late
	f.mu.Unlock()
	f.tell(o, err, late)
}

// tell says what has become of it. At the start whoever began says so, unless he has
// stopped waiting.
func (f *folder) tell(o *opening, err error, late bool) {
	switch {
	case err != nil && o.old != nil:
		f.log.Error("the cache folder is not where it was: pulls go past the disk until it is back", "dir", f.dir, "err", err)
	case err != nil:
	case o.old != nil:
		f.reopened()
		f.log.Warn("the cache folder was emptied or replaced; what is there now is used", "dir", f.dir)
	case late:
		f.reopened()
		f.log.Info("the cache folder can be used again", "dir", f.dir)
	}
}

// leave closes s. What grows in it ends in errors of the disk.
func (f *folder) leave(s *store.Store) {
	_ = s.Close() // it was only locked
	f.mu.Lock()
	defer f.mu.Unlock()
	f.evicted += s.Usage().Evicted
	if f.failed == nil {
		f.failed = map[store.Op]int64{}
	}
	for op, n := range s.Failures() {
		f.failed[op] += n
	}
}

// store is the one whose folder was opened last; store.None if it cannot be used.
func (f *folder) store() *store.Store {
	if s := f.now.Load(); s != nil {
		if _, hangs := s.Hangs(); !hangs {
			return s
		}
	}
	return f.none
}

// there is the store, if its folder still is what was opened. One that is not is
// left at once, before anything is written below a mount point.
func (f *folder) there() *store.Store {
	s := f.now.Load()
	if s == nil {
		return f.none
	}
	if _, hangs := s.Hangs(); !hangs && s.Gone() {
		_ = f.openAnew(s) // it is logged
	}
	return f.store()
}

// isGone says that there is nothing to fail: whatever went wrong is due to that.
func (f *folder) isGone() bool {
	s := f.store()
	return s == f.none || s.Gone()
}

// look leaves a folder that is gone, and tries again one that could not be used.
func (f *folder) look() {
	if f.there(); f.now.Load() == nil {
		_ = f.openAnew(nil) // it was logged
	}
}

// close ends it.
func (f *folder) close() error {
	f.mu.Lock()
	f.closed = true
	s, o := f.now.Load(), f.opening
	f.mu.Unlock()
	if o != nil {
		_ = f.wait(o) // it closes itself
	}
	if s == nil {
		return nil
	}
	return s.Close()
}

// trouble is why the folder cannot be used; nil: it can.
func (f *folder) trouble() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.now.Load(); s != nil {
		if since, hangs := s.Hangs(); hangs {
			return f.errHangs(since)
		}
		return nil
	}
	return f.why
}

// unusable says whether nothing can be kept. While the folder is opened anew nobody
// knows, and it waits: what is pulled in that moment is kept as well.
func (f *folder) unusable() bool {
	if f.now.Load() == nil {
		f.mu.Lock()
		o := f.opening
		known := o == nil || o.late
		f.mu.Unlock()
		if !known {
			_ = f.wait(o) // what is asked is below
		}
	}
	return f.store() == f.none
}

// counted is what all stores have, and since.
func (f *folder) counted() (u store.Usage, limit int64, failed map[store.Op]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.now.Load()
	if s == nil {
		s = f.none
	}
	u, failed = s.Usage(), map[store.Op]int64{}
	u.Evicted += f.evicted
	for _, counts := range []map[store.Op]int64{f.failed, s.Failures()} {
		for op, n := range counts {
			failed[op] += n
		}
	}
	return u, s.Limit(), failed
}
