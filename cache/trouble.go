package cache

import (
	"errors"
	"fmt"
	"time"

	"berth/cache/store"
	"berth/oci"
)

const (
	// suspectFor is how long an object that came wrong twice is refused.
	suspectFor = time.Minute
	// diskRest is how long requests go past a disk that failed, before one
	// tries it again.
	diskRest = 10 * time.Second
	// endlessFor is how long what had no room goes past the disk, where only a
	// download would tell how large it is.
	endlessFor = time.Hour
)

// suspicion counts wrong copies of one object.
type suspicion struct {
	count int
	until time.Time
}

// maxSuspects bounds the table; above it the oldest state is forgotten as a
// whole, which costs one more bad download each.
const maxSuspects = 4096

// suspectBytes counts a copy that did not match its digest.
func (c *Cache) suspectBytes(k fillKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspect[k]
	if s == nil {
		if len(c.suspect) >= maxSuspects {
			clear(c.suspect)
		}
		s = &suspicion{}
		c.suspect[k] = s
	}
	if s.count++; s.count >= 2 {
		s.until = c.o.Now().Add(suspectFor)
		s.count = 0
	}
}

func (c *Cache) cleared(k fillKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.suspect, k)
}

// suspected is the answer for an object that keeps coming wrong.
func (c *Cache) suspected(k fillKey) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspect[k]
	if s == nil || s.until.IsZero() {
		return nil
	}
	left := s.until.Sub(c.o.Now())
	if left <= 0 {
		return nil
	}
	return &oci.Error{
		Class: oci.Corrupt, RetryAfter: left,
		Message: fmt.Sprintf("the registry sent wrong bytes for %s twice; it is asked again in %d s", k.digest, int(left.Seconds())+1),
	}
}

// errDisk is in every error of our own disk, or about its room: the pull goes past
// it.
var errDisk = errors.New("the cache cannot keep this blob")

// diskError is errDisk with its cause, for those who cannot go past the disk any
// more: it is nobody's fault upstream.
func diskError(err error) error {
	if errors.Is(err, errDisk) {
		return err
	}
	return &oci.Error{
		Class: oci.Disk, Err: fmt.Errorf("%w: %w", errDisk, err),
		Message: "this node's disk failed in the middle of a download: pull again",
	}
}

// failedDisk is diskError, and pulls go past the disk for a while.
func (f *fill) failedDisk(err error) error {
	if errors.Is(err, store.ErrNoRoom) && f.blocks != nil && f.blocks.Size() < 0 {
		f.c.endless.Add(f.key, f.c.o.Now().Add(endlessFor))
	}
	f.c.diskTrouble(err)
	return diskError(err)
}

// PastReason is why pulls go past the disk.
type PastReason string

// The reasons, besides those of store.Lack.
const (
	// PastUnusable: the folder cannot be used, or is not there.
	PastUnusable PastReason = "unusable"
	// PastFailed: the disk failed, most of all in writing.
	PastFailed PastReason = "failed"
	// PastShare: it is more than downloads from an organisation's own registry
	// may take.
	PastShare PastReason = "share"
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

// diskTrouble notes why a blob cannot be kept: one that is too large is no fault
// of the disk, and of a folder that is gone the folder itself tells.
func (c *Cache) diskTrouble(err error) {
	none, is := errors.AsType[*store.NoRoom](err)
	switch {
	case is:
		c.noRoom(PastReason(none.Lack), none.Bytes)
	case c.store.isGone(), errors.Is(err, store.ErrGone):
	default:
		c.diskFailed(err)
	}
}

// diskFailed notes that the folder cannot be written, so that pulls go past it
// for a while.
func (c *Cache) diskFailed(err error) {
	c.mu.Lock()
	now := c.o.Now()
	news := c.bad.err == nil && now.After(c.bad.until.Add(time.Minute))
	c.bad.err, c.bad.until = err, now.Add(diskRest)
	c.bad.said = c.bad.said || news
	c.mu.Unlock()
	if news {
		c.o.Log.Error("the cache folder cannot be written; pulls go past it until it can", "dir", c.o.Dir, "err", err)
	}
}

// diskWorks notes that something was written to the disk, all the way.
func (c *Cache) diskWorks() {
	c.mu.Lock()
	said := c.bad.said
	c.bad.err, c.bad.said = nil, false
	c.mu.Unlock()
	if said {
		c.o.Log.Info("the cache folder can be written again", "dir", c.o.Dir)
	}
}

// noRoom says now and then that what is pulled does not fit.
func (c *Cache) noRoom(reason PastReason, bytes int64) {
	c.mu.Lock()
	now := c.o.Now()
	news := c.lack.Reason != reason || !now.Before(c.lackSaid.Add(lackSaid))
	c.lack = Past{Reason: reason, Bytes: bytes, Last: now}
	if full := reason == PastReason(store.LackBytes) || reason == PastReason(store.LackInodes); full && bytes <= maxManifest {
		// Nothing fits then, and to try costs a request that the registry counts.
		c.bad.until = now.Add(diskRest)
	}
	if news {
		c.lackSaid = now
	}
	c.mu.Unlock()
	if news {
		c.o.Log.Warn("a download goes past the disk", "dir", c.o.Dir, "reason", string(reason), "bytes", bytes, "err", &store.NoRoom{Bytes: bytes, Lack: store.Lack(reason)})
	}
}

// hadRoom notes that there was room for this many bytes, so that a lack of less is
// over.
func (c *Cache) hadRoom(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lack.Reason != "" && bytes >= c.lack.Bytes {
		c.lack = Past{}
	}
}

// past is why pulls go past the disk now, or did lately; nil: they do not.
func (c *Cache) past() *Past {
	if err := c.store.trouble(); err != nil {
		return &Past{Reason: PastUnusable, Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.bad.err != nil:
		return &Past{Reason: PastFailed, Err: c.bad.err}
	case c.lack.Reason != "" && c.o.Now().Sub(c.lack.Last) < lackFor:
		return new(c.lack)
	}
	return nil
}

// pastDisk says whether the object goes past the disk without being tried.
func (c *Cache) pastDisk(k fillKey) bool {
	until, ok := c.endless.Get(k)
	return ok && c.o.Now().Before(until) || c.store.now.Load() == nil || c.diskIsBad()
}

func (c *Cache) diskIsBad() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.o.Now().Before(c.bad.until)
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
	c.store.look()
	c.mu.Lock()
	due := c.bad.err != nil && !c.o.Now().Before(c.bad.until)
	c.mu.Unlock()
	if s := c.store.now.Load(); due && s != nil && s.Probe() == nil {
		c.diskWorks()
	}
}
