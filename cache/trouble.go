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

// diskTrouble notes why a blob cannot be kept: one that is too large is no fault
// of the disk.
func (c *Cache) diskTrouble(err error) {
	if errors.Is(err, store.ErrNoRoom) {
		c.noRoom(err)
		return
	}
	c.diskFailed(err)
}

// diskFailed notes that the folder cannot be written, so that pulls go past it
// for a while.
func (c *Cache) diskFailed(err error) {
	c.mu.Lock()
	now := c.o.Now()
	news := now.After(c.diskBad.Add(time.Minute))
	c.diskBad = now.Add(diskRest)
	c.mu.Unlock()
	if news {
		c.o.Log.Error("the cache folder cannot be written; pulls go past it until it can", "dir", c.o.Dir, "err", err)
	}
}

// noRoom says now and then that what is pulled is larger than what may be kept.
func (c *Cache) noRoom(err error) {
	c.mu.Lock()
	now := c.o.Now()
	news := !now.Before(c.roomSaid.Add(time.Minute))
	if news {
		c.roomSaid = now
	}
	c.mu.Unlock()
	if news {
		c.o.Log.Warn("a download goes past the disk", "dir", c.o.Dir, "err", err)
	}
}

// pastDisk says whether the object goes past the disk without being tried.
func (c *Cache) pastDisk(k fillKey) bool {
	until, ok := c.endless.Get(k)
	return ok && c.o.Now().Before(until) || c.diskIsBad()
}

func (c *Cache) diskIsBad() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.o.Now().Before(c.diskBad)
}
