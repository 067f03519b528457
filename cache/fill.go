package cache

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"berth/cache/store"
	"berth/oci"
)

const (
	// verifyFirst is the size up to which a blob is verified before its first
	// byte leaves, so that a bad copy can be fetched again unseen.
	verifyFirst = 4 << 20
	// runLength is what one upstream request asks for at most.
	runLength = 16 << 20
)

type fillKey struct {
	origin string
	kind   oci.Kind
	digest oci.Digest
}

func (s *source) fillKey(o oci.Object) fillKey { return fillKey{s.origin, o.Kind, o.Digest} }

// fill is one object on its way from an origin to the disk, and everyone who
// waits for it. Readers take bytes from its blocks; one worker fetches what the
// most urgent reader lacks.
type fill struct {
	c   *Cache
	key fillKey
	// owner is the organisation that brought the registry, if one did; promised
	// is what the fill has of its share, under the cache's mutex.
	owner    string
	promised int64

	// opened is closed when readers may start: the size is known, and what is
	// small has been verified. failed is closed when there will be no more
	// bytes; err says why.
	opened chan struct{}
	failed chan struct{}
	// ended is closed when the fill is out of the table, however it went.
	ended chan struct{}
	// kick wakes the worker: a reader came, waits elsewhere, or left.
	kick chan struct{}

	mu       sync.Mutex
	err      error
	sponsors []*sponsor
	readers  map[*reader]struct{}
	blocks   *store.Blocks // nil until the first answer
	// whole: somebody wanted all of it, so it goes on to the end even if that
	// reader left (a docker pull comes back for the rest after seconds).
	whole   bool
	running bool
	turn    *turn // of who made it run
	// stopFetching ends the requests upstream of the fetch that is under way.
	stopFetching context.CancelFunc
	// Where the first worker's run ends; 0 while it has none.
	runEnd int64
	// Workers besides the first: how many run, and where they may be hired.
	extras  int
	single  bool            // the registry ignores ranges
	hiring  context.Context // nil: nowhere
	workers sync.WaitGroup
	// over: finished or failed, and no longer in the table: look elsewhere.
	over      bool
	idleSince time.Time // when the last reader left
	mediaType string
}

// join attaches a reader of r to the fill of o, and waits until it may read.
// errAgain: there was no fill when it looked and no need for one, or it ended.
func (s *source) join(ctx context.Context, view oci.View, o oci.Object, r oci.Range) (*oci.Content, error) {
	turn, err := s.turn(ctx, view, o)
	if err != nil {
		return nil, err
	}
	defer turn.unused()
	f, sp, started, err := s.c.attach(s, view, o)
	if err != nil {
		return nil, err
	}
	var admitted oci.Outcome
	if sp == nil { // the decision comes before the fill
		if admitted, err = s.admit(ctx, view, o); err != nil {
			return nil, err
		}
		if sp = f.sponsor(s, view, o); sp == nil {
			return nil, errAgain
		}
	}
	content, err := f.open(ctx, sp, r, turn)
	if err != nil {
		return nil, err
	}
	content.Result, content.Warning = oci.Join, admitted.Warning
	if started {
		content.Result = oci.Fill
	}
	return content, nil
}

// attach finds the fill of o or starts it. Without a sponsor in the answer the
// view must be admitted first. A view whose own first request for the fill is
// under way needs no other: what that answers, this reader gets.
func (c *Cache) attach(s *source, view oci.View, o oci.Object) (f *fill, sp *sponsor, started bool, err error) {
	key := s.fillKey(o)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.fills[key]; ok {
		sp, over := f.find(sponsorKey{view, o.Repo}, false)
		if over {
			return nil, nil, false, errAgain
		}
		return f, sp, false, nil
	}
	// A fill may have published between the look at the disk and this one.
	if _, ok := c.store.Has(s.origin, o.Digest); ok {
		return nil, nil, false, errAgain
	}
	f = &fill{
		c: c, key: key,
		opened: make(chan struct{}), failed: make(chan struct{}), ended: make(chan struct{}), kick: make(chan struct{}, 1),
		readers: map[*reader]struct{}{}, owner: s.u.Origin.Owner,
	}
	sp = newSponsor(s, view, o)
	sp.readers++
	f.sponsors = []*sponsor{sp}
	c.fills[key] = f
	return f, sp, true, nil
}

// find gives the live sponsor with key, counting the reader that comes with
// it. Readers that were not admitted only get one whose first request is still
// to be answered: not a proven one, whose rights may have ended since, nor one
// that was never asked for since another opened the fill.
func (f *fill) find(key sponsorKey, admitted bool) (sp *sponsor, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sp := range f.sponsors {
		if sp.key == key && sp.live() && (admitted || !sp.proven.Load() && !f.isOpen()) {
			sp.readers++
			if admitted {
				sp.proven.Store(true)
			}
			return sp, f.over
		}
	}
	return nil, f.over
}

// sponsor adds a view that has proven its access. Nil: the fill is over.
func (f *fill) sponsor(s *source, view oci.View, o oci.Object) *sponsor {
	if sp, over := f.find(sponsorKey{view, o.Repo}, true); sp != nil || over {
		return sp
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return nil
	}
	sp := newSponsor(s, view, o)
	sp.readers++
	sp.proven.Store(true)
	f.sponsors = append(f.sponsors, sp)
	return sp
}

// open attaches a reader and waits until it may read, or has an answer.
func (f *fill) open(ctx context.Context, sp *sponsor, r oci.Range, turn *turn) (*oci.Content, error) {
	rd, ok := f.enter(sp, r, turn)
	if !ok {
		return nil, errAgain
	}
	var err error
	select {
	case <-f.opened:
		var content *oci.Content
		if err = f.mayRead(sp); err == nil {
			if content, err = rd.content(ctx); err == nil {
				return content, nil
			}
			if errors.Is(err, errAgain) {
				f.waitForEnd(ctx) // to find it again would be no use
				err = cmp.Or(f.failure(), err)
			}
		}
	case <-f.failed:
		err = f.failure()
	case <-sp.struck:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	rd.leave()
	return nil, sp.told(err)
}

// mayRead says whether sp's readers may have what is open: not before sp has
// proven its access, and not after it was refused. errAgain: nobody asked as sp,
// so its readers have to be admitted.
func (f *fill) mayRead(sp *sponsor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !sp.live():
		return sp.err
	case !sp.proven.Load():
		return errAgain
	}
	return nil
}

// waitForEnd waits until those who come find another fill, or what this one has
// published.
func (f *fill) waitForEnd(ctx context.Context) {
	select {
	case <-f.ended:
	case <-ctx.Done():
	}
}

// isOpen says whether readers may start.
func (f *fill) isOpen() bool {
	select {
	case <-f.opened:
		return true
	default:
		return false
	}
}

func (f *fill) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// enter counts a reader in and makes sure that a worker runs, in the reader's
// turn if none does yet.
func (f *fill) enter(sp *sponsor, r oci.Range, turn *turn) (*reader, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		sp.readers--
		return nil, false
	}
	rd := &reader{fill: f, sponsor: sp, want: r}
	f.readers[rd] = struct{}{}
	if !r.Bounded() {
		f.whole = true
	}
	if !f.running {
		f.running = true
		f.turn = turn.take()
		f.c.line.runs(f.key)
		f.c.wg.Go(f.run)
	}
	f.wake()
	return rd, true
}

// wake tells the worker to look again at who wants what.
func (f *fill) wake() {
	select {
	case f.kick <- struct{}{}:
	default: // it will look anyway
	}
}

// end takes the fill out of the table, with err for those who still wait. Those
// who come later find the blob on disk, or start anew: from what is there, if
// nothing is wrong with that.
//
// What the fill holds is given back before anybody is woken, its room and its
// file first: whoever is woken, a reader whose client pulls again at once or the
// next in line for the turn, may be the one who needs it.
func (f *fill) end(err error) {
	if err != nil {
		f.dropBlocks(err)
	}
	f.withdraw(err).over(err != nil)
	f.tellStruck()
	close(f.ended)
	if err == nil {
		return
	}
	if f.blocks != nil {
		f.blocks.Fail(err)
	}
	close(f.failed)
}

// dropBlocks gives back the room of what was fetched, but for what is worth
// keeping. It comes before withdraw, so that nobody looks for what is left before
// it is there, and without the cache's mutex: to delete a large file takes time.
func (f *fill) dropBlocks(err error) {
	if f.blocks == nil {
		return
	}
	f.blocks.Stop(err)
	if keeps(err) {
		f.blocks.Shelve()
	} else {
		f.blocks.Drop()
	}
}

// withdraw takes the fill out of the table and gives back its share. The turn is
// for the caller to end, without the mutexes: others wait for it.
func (f *fill) withdraw(err error) *turn {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.leaveTable()
	return f.turn
}

// keeps says whether what was fetched is worth keeping although the fill ended
// with err.
func keeps(err error) bool {
	return oci.ClassOf(err) != oci.Corrupt && !errors.Is(err, store.ErrMismatch) && !errors.Is(err, errDisk)
}

// leaveTable lets whoever comes from now on start anew. Caller holds the cache's
// mutex and the fill's.
func (f *fill) leaveTable() {
	delete(f.c.fills, f.key)
	f.release()
	f.over, f.running = true, false
}

// park ends a fill that nobody reads, and leaves its blocks for the next one who
// comes. It says false when somebody came meanwhile.
func (f *fill) park() bool {
	if !f.shelve() {
		return false
	}
	f.turn.over(false)
	close(f.ended)
	return true
}

// shelve is the part of park under the mutexes.
func (f *fill) shelve() bool {
	f.c.mu.Lock() // so that nobody looks for what is left before it is there
	defer f.c.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) > 0 {
		return false
	}
	f.blocks.Leave()
	f.leaveTable()
	return true
}
