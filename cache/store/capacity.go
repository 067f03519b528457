package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
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
	// LackBusy: growing blobs take what may be kept.
	LackBusy Lack = "busy"
	// LackBytes: the disk is full, and evicting would not help.
	LackBytes Lack = "bytes"
	// LackInodes: it can hold no more files.
	LackInodes Lack = "inodes"
	// LackShare: it is more than downloads from an organisation's own registry may
	// take, or than those of one organisation may take from others.
	LackShare Lack = "share"
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

const (
	// countWait is how long reservations wait for the first count of the folder,
	// from its start. Only a very large cache takes longer; it then goes over its
	// limit by what is fetched until then, and the sweep that follows the count sets
	// that right.
	countWait = 2 * time.Second
	// minInodes is how many files a filesystem has left when it counts as full.
	minInodes = 8
	// block is what a file takes of a disk at least, on most filesystems. Whoever keeps
	// many tiny blobs takes blocks from others, and few bytes.
	block = 4 << 10
	// largestBlob is more than any registry takes. A registry can say any size: sums
	// with larger ones could come out negative, and small.
	largestBlob = maxNotes * 8 * BlockSize
)

// capacity accounts for the bytes of the folder and evicts the least recently used
// blobs. Growing blobs count from the moment that they are reserved.
type capacity struct {
	blobs string
	o     Options
	disk  *disk
	// gone says that blobs is another folder now, from which nothing may go.
	gone func() bool
	// checks forgets what goes.
	checks *checks

	// names is held while a name under blobs changes and while one of its folders is
	// listed, so that what is counted is what was there at one moment. It comes
	// before mu.
	names sync.Mutex

	mu        sync.Mutex
	kept      int64 // bytes of published blobs, and how many there are
	blobCount int64
	evicted   int64 // blobs, since the start
	growing   int64 // reserved for growing blobs, and held by partials
	// charged is what is reserved for blobs that are not verified yet. origins has those
	// who have any that are, and of each the origins that his have come from last.
	charged   map[account]int64
	origins   map[owner][]string
	partials  map[partialKey]*partial
	unwritten int64 // of growing: what the filesystem does not know of yet
	foreign   int64 // files that are no blobs
	// tallies are what kept and blobCount sum up, by leaf.
	tallies map[string]tally

	evicting sync.Mutex    // one walk at a time
	counted  chan struct{} // closed after the first
	begun    time.Time     // when that was begun
	tight    chan struct{} // wakes the sweeper
	asks     chan ask      // to it

	ctx    context.Context // of the sweep
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newCapacity(blobs string, o Options, d *disk, c *checks, gone func() bool) *capacity {
	ctx, cancel := context.WithCancel(context.Background())
	return &capacity{
		blobs: blobs, o: o, disk: d, checks: c, gone: gone, ctx: ctx, cancel: cancel,
		partials: map[partialKey]*partial{}, tallies: map[string]tally{}, charged: map[account]int64{}, origins: map[owner][]string{},
		counted: make(chan struct{}), tight: make(chan struct{}, 1), asks: make(chan ask),
	}
}

func (c *capacity) start() {
	c.begun = time.Now()
	c.wg.Go(func() { c.sweep(c.ctx) })
}

func (c *capacity) close() {
	c.cancel()
	c.wg.Wait()
}

// ownerShare is which part of what may be kept, an eighth, the downloads of one
// organisation may take from others; and those from its own registry, in any case:
// else one header would be enough to have room made for bytes that never come.
const ownerShare = 8

// reserve takes n bytes, and charges as many to a, until they are verified, as the
// second number says: for a partial those that are there already count too. It waits
// for the sweeper only where that did not keep up.
func (c *capacity) reserve(a account, n, charge int64) error {
	if n > largestBlob {
		return &NoRoom{n, LackLimit}
	}
	if c.o.MaxSize > 0 {
		c.waitForCount()
	}
	if c.ctx.Err() != nil {
		return ErrGone
	}
	for {
		w, ok := c.take(a, n, charge)
		if ok {
			return nil
		}
		if a.own && w.own {
			return &NoRoom{charge, LackShare}
		}
		if !c.possible(n) {
			return c.noRoom(n)
		}
		if !c.waitForCount() { // and to evict would wait for its end
			return &NoRoom{n, LackBusy}
		}
		progress, err := c.askFor(w)
		switch {
		case err != nil:
			return fmt.Errorf("evicting: %w", err)
		case !progress && w.own:
			return &NoRoom{n, LackShare}
		case !progress:
			return c.noRoom(n)
		}
	}
}

// waitForCount reports whether the first count is over by countWait.
func (c *capacity) waitForCount() bool {
	select {
	case <-c.counted:
		return true
	default: // a timer for each reservation would cost more
	}
	wait := time.NewTimer(countWait - time.Since(c.begun))
	defer wait.Stop()
	select {
	case <-c.counted:
		return true
	case <-wait.C:
		return false
	}
}

// take takes n bytes if they are free, and says what must come free if not. Beyond his
// share an owner leaves the margin alone: what the sweeper would make it of is others'.
func (c *capacity) take(a account, n, charge int64) (w want, ok bool) {
	has := c.look()
	margin, share := c.margin(has.space), c.room(has.space)/ownerShare
	c.mu.Lock()
	defer c.mu.Unlock()
	w = want{owner: a.owner, n: n}
	of := c.charged[a]
	if !a.own {
		of += c.charged[account{a.owner, true}]
	}
	switch w.own = charge > share-of; { // not of+charge, which may be beyond all numbers
	case w.own && a.own:
		return w, false
	case w.own && c.others(a.owner):
		w.n += margin
	default:
		w.own = false
	}
	left := c.free(has, gain{}) - n
	if left < w.n-n {
		return w, false
	}
	c.growing += n
	c.charged[a] += charge
	c.unwritten += n
	if left < margin/2 {
		select {
		case c.tight <- struct{}{}:
		default: // it is on its way
		}
	}
	return w, true
}

// others reports whether anybody but o has something here. Caller holds mu.
func (c *capacity) others(o owner) bool {
	_, has := c.origins[o]
	return len(c.origins) > 1 || len(c.origins) == 1 && !has
}

// room is how many bytes may be kept, on a disk that has nothing else.
func (c *capacity) room(has space) int64 {
	room := c.o.MaxSize
	if has.total > 0 && (room == 0 || has.total-c.o.MinFree < room) {
		room = max(has.total-c.o.MinFree, 1)
	}
	return cmp.Or(room, math.MaxInt64/2) // where the filesystem does not say how large it is
}

// gain is what would come free: of what MaxSize limits, and of the filesystem. A file
// with two names is two blobs.
type gain struct{ kept, blobs, bytes, files int64 }

func (g *gain) add(o gain) {
	g.kept += o.kept
	g.blobs += o.blobs
	g.bytes += o.bytes
	g.files += o.files
}

// sight is what the filesystem had, and what it did not know of then.
type sight struct {
	space

	unwritten int64
}

// look asks the filesystem, which may hang: so nobody does it who holds mu. What is
// written meanwhile counts as unwritten, which is the safe side.
func (c *capacity) look() sight {
	c.mu.Lock()
	unwritten := c.unwritten
	c.mu.Unlock()
	return sight{c.disk.space(c.blobs), unwritten}
}

// free is how many bytes would fit if g came free. It may be negative. Caller holds mu.
func (c *capacity) free(has sight, g gain) int64 {
	free := has.free + g.bytes
	if has.files < minInodes && has.files+g.files < minInodes {
		free = 0
	}
	free -= max(c.unwritten, has.unwritten) + c.o.MinFree
	if c.o.MaxSize > 0 {
		tiny := max((c.blobCount-g.blobs)*block-max(c.kept-g.kept, 0), 0) // what they take beyond their bytes
		free = min(free, c.o.MaxSize-c.kept-c.growing+g.kept-tiny)
	}
	return free
}

// margin is what the sweeper keeps free, so that a reservation need not wait.
func (c *capacity) margin(has space) int64 {
	margin := has.total
	if c.o.MaxSize > 0 {
		margin = min(margin, c.o.MaxSize)
	} else if c.o.MinFree > 0 {
		margin = min(margin, c.o.MinFree)
	}
	return margin / 20
}

// short is how many bytes must come free for n to fit; it is negative or 0 where
// they do.
func (c *capacity) short(n int64) int64 {
	has := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	return n - c.free(has, gain{})
}

// fitsWithout reports whether n bytes would fit if all partials went, and blobs
// whose going would gain g.
func (c *capacity) fitsWithout(g gain, n int64) bool {
	has := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := c.partialBytes()
	g.kept += parts
	g.bytes += parts
	g.files += 2 * int64(len(c.partials)) // with their notes
	return c.free(has, g) >= n
}

// possible reports whether n bytes would fit if all blobs and partials went. If
// not, none should.
func (c *capacity) possible(n int64) bool {
	c.mu.Lock()
	all := gain{c.kept, c.blobCount, max(c.kept, c.blobCount*block), c.blobCount}
	c.mu.Unlock()
	select {
	case <-c.counted:
	default: // nobody knows yet what is on the disk
		all.bytes, all.files = math.MaxInt64/2, minInodes
	}
	return c.fitsWithout(all, n)
}

// noRoom says why n bytes do not fit.
func (c *capacity) noRoom(n int64) error {
	has := c.disk.space(c.blobs)
	c.mu.Lock()
	defer c.mu.Unlock()
	lack := LackBytes
	switch {
	case c.o.MaxSize > 0 && n > c.o.MaxSize, has.total > 0 && n > has.total-c.o.MinFree:
		lack = LackLimit
	case has.files < minInodes:
		lack = LackInodes
	case c.o.MaxSize > 0 && n > c.o.MaxSize-c.growing+c.partialBytes():
		lack = LackBusy
	}
	return &NoRoom{n, lack}
}

// wrote says that n reserved bytes have been written.
func (c *capacity) wrote(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unwritten -= n
}

// giveBack ends the reservation for a blob of which written bytes were written.
func (c *capacity) giveBack(reserved, written int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.growing -= reserved
	c.unwritten -= reserved - written
}

// uncharge takes n bytes out of what is charged to a.
func (c *capacity) uncharge(a account, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.charged[a] -= n; c.charged[a] == 0 {
		delete(c.charged, a)
	}
}
