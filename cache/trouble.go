package cache

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"berth/cache/download"
	"berth/cache/store"
	"berth/internal/descriptor"
	"berth/internal/hold"
	"berth/internal/share"
	"berth/oci"
)

const (
	// corruptFor is how long an object that came wrong twice is refused.
	corruptFor = time.Minute
	// onceFor is how long the first wrong copy counts.
	onceFor = time.Hour
	// diskRest is how long requests go past a disk that failed, before one tries it
	// again.
	diskRest = 10 * time.Second
	// unboundedFor is how long a blob goes past the disk that had no room, where only
	// a download would tell how large it is.
	unboundedFor = time.Hour
)

// PastReason is why pulls go past the disk.
type PastReason string

// The reasons, besides those of store.Lack.
const (
	// PastUnusable: the folder cannot be used, or is not there.
	PastUnusable PastReason = "unusable"
	// PastFailed: the disk failed, most of all in writing.
	PastFailed PastReason = "failed"
)

// Past is why pulls go past the disk.
type Past struct {
	Reason PastReason
	// Err is what happened; nil where the reason says it.
	Err error
	// Bytes did not fit, where that is the reason, last at Last.
	Bytes int64
	Last  time.Time
}

const (
	// lackFor is how long a lack of room is told.
	lackFor = time.Hour
	// lackSaid is how often one of the same reason is logged.
	lackSaid = 10 * time.Minute
)

// badDisk is a disk that failed.
type badDisk struct {
	err   error     // nil: it can be written, as far as is known
	until time.Time // requests go past it
	said  bool      // in the log, and that it is over has not been
}

// trouble is what went wrong with objects and with the disk, and until when it
// counts. It is what downloads report to.
type trouble struct {
	o *Options
	// corrupt holds objects whose bytes came wrong twice; once those of which one copy
	// was wrong. They count for their origin, which sends such bytes. It may answer one
	// account with garbage and others with the blob, so that both are kept for each
	// principal; two who got wrong bytes speak for everyone.
	corrupt, once *hold.Table[wrongCopy]
	// alone is who was the first to get wrong bytes that were nobody else's.
	alone *share.LRU[download.Key, oci.Principal]
	// unbounded holds blobs of unknown size that turned out to be larger than there
	// was room for.
	unbounded *hold.Table[download.Key]

	folder *folder

	mu  sync.Mutex
	bad badDisk
	// lack is the last lack of room, logged at lackSaid.
	lack     Past
	lackSaid time.Time
	openSaid time.Time // that descriptors had run out
}

// wrongCopy is an object whose bytes came wrong, and for whom.
type wrongCopy struct {
	download.Key

	principal oci.Principal
	everyone  bool
}

func newTrouble(o *Options, f *folder) *trouble {
	return &trouble{
		o: o, folder: f, corrupt: hold.New[wrongCopy](4096, o.Now), once: hold.New[wrongCopy](4096, o.Now),
		alone:     share.New[download.Key, oci.Principal](4096, nil),
		unbounded: hold.New[download.Key](1024, o.Now),
	}
}

// Corrupt counts a copy that did not match its digest, of which each of the principals
// has fetched a part. Two for one of them, and the object is refused to it for a while;
// one each for two that had no part in each other's, and it is refused to everyone.
func (t *trouble) Corrupt(k download.Key, principals []oci.Principal) {
	k.Scope = "" // here and below: the registry is the same for all
	for _, p := range principals {
		w := wrongCopy{Key: k, principal: p}
		if _, _, seen := t.once.Held(w); seen {
			t.corrupt.For(k.Origin, w, corruptFor, nil)
			t.once.Release(w)
		} else {
			t.once.For(k.Origin, w, onceFor, nil)
		}
	}
	if len(principals) != 1 {
		return // whose part was wrong, nobody can tell
	}
	first, seen := t.alone.Get(k)
	switch {
	case !seen:
		t.alone.Add(k.Origin, k, principals[0])
	case first != principals[0]:
		t.corrupt.For(k.Origin, wrongCopy{Key: k, everyone: true}, corruptFor, nil)
		t.alone.Remove(k)
	}
}

// Sound clears what was counted.
func (t *trouble) Sound(k download.Key) {
	k.Scope = ""
	t.alone.Remove(k)
	of := func(w wrongCopy) bool { return w.Key == k }
	t.once.ReleaseIf(of)
	t.corrupt.ReleaseIf(of)
}

// DiskFailed notes why a blob could not be kept. That there is no room for one is
// no fault of the disk, and of a folder that is gone the folder itself tells.
func (t *trouble) DiskFailed(k download.Key, size int64, err error) {
	k.Scope = ""
	none, lacks := errors.AsType[*store.NoRoom](err)
	switch {
	case lacks:
		if size < 0 {
			t.unbounded.For(k.Origin, k, unboundedFor, nil)
		}
		t.noRoom(PastReason(none.Lack), none.Bytes)
	case t.folder.isGone(), errors.Is(err, store.ErrGone):
	case descriptor.Exhausted(err): // nor is it that there are too many files open
		t.noDescriptor(err)
	default:
		t.diskFailed(err)
	}
}

// refusal is the answer for an object that keeps coming wrong to principal, or to
// everyone; nil: it does not.
func (t *trouble) refusal(k download.Key, principal oci.Principal) error {
	k.Scope = ""
	left, _, held := t.corrupt.Held(wrongCopy{Key: k, everyone: true})
	if !held {
		left, _, held = t.corrupt.Held(wrongCopy{Key: k, principal: principal})
	}
	if !held {
		return nil
	}
	return &oci.Error{
		Class: oci.Corrupt, RetryAfter: left,
		Message: fmt.Sprintf("the registry sent wrong bytes for %s twice; it is asked again in %d s", k.Digest, int(left.Seconds())+1),
	}
}

// noDescriptor says now and then that something was not kept, or could not be read,
// for want of a descriptor.
func (t *trouble) noDescriptor(err error) {
	t.mu.Lock()
	now := t.o.Now()
	news := !now.Before(t.openSaid.Add(time.Minute))
	if news {
		t.openSaid = now
	}
	t.mu.Unlock()
	if news {
		t.o.Log.Error("this process has no file descriptor left, so that the cache cannot be used: let it open more files (LimitNOFILE= or ulimit -n), or lower limits.requests", "dir", t.o.Dir, "err", err)
	}
}

// diskFailed notes that the folder cannot be written, so that pulls go past it
// for a while.
func (t *trouble) diskFailed(err error) {
	t.mu.Lock()
	now := t.o.Now()
	news := t.bad.err == nil && now.After(t.bad.until.Add(time.Minute))
	t.bad.err, t.bad.until = err, now.Add(diskRest)
	t.bad.said = t.bad.said || news
	t.mu.Unlock()
	if news {
		t.o.Log.Error("the cache folder cannot be written; pulls go past it until it can", "dir", t.o.Dir, "err", err)
	}
}

// Kept notes that something was written to the disk, all the way.
func (t *trouble) Kept() {
	t.mu.Lock()
	said := t.bad.said
	t.bad.err, t.bad.said = nil, false
	t.mu.Unlock()
	if said {
		t.o.Log.Info("the cache folder can be written again", "dir", t.o.Dir)
	}
}

// noRoom says now and then that what is pulled does not fit.
func (t *trouble) noRoom(reason PastReason, bytes int64) {
	t.mu.Lock()
	now := t.o.Now()
	news := t.lack.Reason != reason || !now.Before(t.lackSaid.Add(lackSaid))
	t.lack = Past{Reason: reason, Bytes: bytes, Last: now}
	if full := reason == PastReason(store.LackBytes) || reason == PastReason(store.LackInodes); full && bytes <= oci.MaxManifest {
		// Nothing fits then, and to try costs a request that the registry counts.
		t.bad.until = now.Add(diskRest)
	}
	if news {
		t.lackSaid = now
	}
	t.mu.Unlock()
	if news {
		t.o.Log.Warn("a download goes past the disk", "dir", t.o.Dir, "reason", string(reason), "bytes", bytes, "err", &store.NoRoom{Bytes: bytes, Lack: store.Lack(reason)})
	}
}

// Reserved notes that there was room for this many bytes, so that a lack of less is
// over.
func (t *trouble) Reserved(_ download.Key, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lack.Reason != "" && bytes >= t.lack.Bytes {
		t.lack = Past{}
	}
}

// past is why pulls go past the disk now, or did lately; nil: they do not.
func (t *trouble) past() *Past {
	if err := t.folder.trouble(); err != nil {
		return &Past{Reason: PastUnusable, Err: err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.bad.err != nil:
		return &Past{Reason: PastFailed, Err: t.bad.err}
	case t.lack.Reason != "" && t.o.Now().Sub(t.lack.Last) < lackFor:
		return new(t.lack)
	}
	return nil
}

// pastDisk reports whether the object goes past the disk without being tried.
func (t *trouble) pastDisk(k download.Key) bool {
	k.Scope = ""
	if _, _, unbounded := t.unbounded.Held(k); unbounded || t.folder.unusable() {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.o.Now().Before(t.bad.until)
}

// mayProbe reports whether the disk has failed, and may be tried again.
func (t *trouble) mayProbe() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bad.err != nil && !t.o.Now().Before(t.bad.until)
}

// keepLooking looks after the folder until the cache is closed: one that comes
// back is used again also where nobody pulls, and is not told to be in trouble.
func (c *Cache) keepLooking() {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			c.look()
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Cache) look() {
	c.folder.look()
	if c.trouble.mayProbe() && c.folder.store().Probe() == nil {
		c.trouble.Kept()
	}
}
