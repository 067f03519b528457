package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"berth/fleet/coordinator"
	"berth/fleet/seal"
	"berth/internal/pause"
)

// File is where the object grows on this node.
type File interface {
	Has(from, to int64) bool
	Verified() bool
	OpenReader() (*os.File, error)
}

// named is an object in a scope.
type named struct {
	scope seal.Scope
	coordinator.Object
}

// place is where a part lies.
type place struct {
	named

	node    string
	writing seal.Writing
	hash    coordinator.Hash
}

// Object is one blob on its way to this node, in one scope. Its methods are safe for
// concurrent use, since a download has several workers.
type Object struct {
	t            *Tier
	organisation string
	names        []named // in the scope that is written, and in those that are only read
	size         int64
	writing      seal.Writing // ours

	moved atomic.Int64 // bytes that came from the registry
	// puts is how many parts are on their way into the bucket. Package bucket ends those that
	// take too long.
	puts  atomic.Int64
	ended chan struct{} // closed by Over

	looking chan struct{} // has one while the coordinator is asked; comes before mu

	mu     sync.Mutex
	looked time.Time     // when the coordinator was asked last
	answer time.Duration // how long that took
	at     map[int][]place
	// lease is that of turn: those before it were passed by.
	lease observed
	turn  int
	// parts are those that are in the bucket in our writing. withdrawn: there are no longer
	// any, and the others are to be told.
	parts []coordinator.Hash
	// owed is, by part, what the registry was asked for and others do not have yet, and ahead
	// is the sum.
	owed      []int64
	ahead     int64
	written   int
	withdrawn bool
	// held is until when the lease is ours; keeping: goroutines renew it and write.
	held    time.Time
	keeping bool
	// fallen: the fleet has cost its patience, and is not waited for again; troubled: so
	// have its engines. alone: nothing is taken from it or given to it again.
	fallen, troubled, alone bool
	tried                   bool                                 // whether the bucket can be read from was found out
	giveBack                func(context.Context) error          // the slot at the registry
	used                    map[coordinator.Holder]map[int]place // the parts in the file, by who wrote them
	lost                    map[seal.Writing]bool                // writings with parts that are not there
	file                    File
	over                    bool
	result                  Result // as it was counted
}

// Step says where the next bytes come from.
type Step struct {
	// Data are the next bytes of the object, from the fleet, and Release is called when
	// they are no longer needed; nil: the registry is to be asked, up to Until.
	Data    []byte
	Release func()
	// Yield lets other parts be read before Data is released: whoever waits for anything with
	// it in hand calls it.
	Yield func()
	Until int64
}

const (
	// pollEvery is how often who waits looks again: or after so many times as long as the
	// last answer took, and pollRarely at the rarest.
	pollEvery, pollFactor, pollRarely = 250 * time.Millisecond, 20, 2 * time.Second
	// freshFor is how long a look is worth something to who does not wait.
	freshFor = 2 * time.Second
	// maxWait for one part, whatever the fleet says meanwhile.
	maxWait = time.Minute
	// maxPlaces is how many copies of a part are remembered.
	maxPlaces = 4
	// maxTurns is how many leases without a part are each waited for anew.
	maxTurns = 2
	// lastTurn is how many leases that live are passed by before one goes to the registry
	// past the last one, too.
	lastTurn = 1
)

// Next says where the bytes from off on come from, of which the caller wants those
// before end. It waits where another node is fetching them.
func (o *Object) Next(ctx context.Context, off, end int64) (Step, error) {
	part := seal.PartAt(off)
	from, _ := seal.Range(part, o.size)
	began := time.Now()
	defer func() { o.t.o.Metrics.waited(time.Since(began)) }()
	o.look(ctx, began.Add(-freshFor))
	for {
		if ctx.Err() != nil {
			return Step{}, context.Cause(ctx)
		}
		if s := o.take(ctx, part); s.Data != nil {
			s.Data = s.Data[off-from:]
			return s, nil
		}
		if o.goes(ctx, began) {
			return o.fromRegistry(ctx, off, end)
		}
		since := time.Now()
		o.nextPoll(ctx)
		o.look(ctx, since) // unless another worker has done so since
	}
}

func (o *Object) nextPoll(ctx context.Context) {
	o.mu.Lock()
	answer := o.answer
	o.mu.Unlock()
	nextPoll(ctx, answer)
}

// nextPoll waits until it is time to ask the coordinator again, whose last answer took that
// long: the later they come the fewer are asked for, or ten thousand nodes that wait
// would ask so much that it answers nobody in time, and then all go to the registry.
func nextPoll(ctx context.Context, answer time.Duration) {
	every := min(max(pollEvery, pollFactor*answer), pollRarely)
	_ = pause.For(ctx, every/2+rand.N(every)) // whoever asks next finds out
}

// goes says whether to go to the registry now, which was first wanted at began: with the
// lease, or past one that is not worth waiting for, or since the fleet is of no help.
func (o *Object) goes(ctx context.Context, began time.Time) bool {
	o.mu.Lock()
	now := time.Now()
	held, fallen := now.Before(o.held), o.fallen || o.alone
	lease, patience := o.lease, o.t.o.Patience
	if o.turn > 0 { // it has cost some already
		patience /= 2
	}
	try := lease.held() && !o.tried && !held && !fallen
	o.tried = o.tried || try
	o.mu.Unlock()
	switch {
	case held:
		o.count(Leased)
		return true
	case fallen:
		o.count(Fallback)
		return true
	case try && o.unreadable(ctx):
		o.count(Fallback)
		return true
	case now.Sub(began) > maxWait:
	case lease.held() && (lease.dead(now, patience) || o.t.ignoresLeases(lease.Node)):
		if o.pass(lease.Holder) {
			return false
		}
	case !lease.held() && o.t.o.Bucket.Writable() != nil:
		// With a lease the others would wait for parts that this node cannot give, and take
		// it in turn.
		o.count(Fallback)
		return true
	case !lease.held():
		return o.takeLease(ctx)
	default:
		return false
	}
	o.fall(ctx)
	o.count(Fallback)
	return true
}

// unreadable says that nothing can be read from the bucket: then waiting for whoever
// writes into it would cost all of the patience, of each lease anew.
func (o *Object) unreadable(ctx context.Context) bool {
	err := o.t.o.Bucket.Try(ctx)
	if err != nil {
		o.trouble(ctx, err)
	}
	return err != nil && ctx.Err() == nil
}

// look asks the coordinator what there is, unless somebody has done so since.
func (o *Object) look(ctx context.Context, since time.Time) {
	select {
	case o.looking <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-o.looking }()
	o.mu.Lock()
	first, skip := o.looked.IsZero(), o.alone || o.troubled || o.looked.After(since)
	o.mu.Unlock()
	if skip {
		return
	}
	for i, n := range o.names {
		if i > 0 && !first { // nobody writes there any more
			return
		}
		limited, cancel := context.WithTimeout(ctx, o.t.o.Patience)
		asked := time.Now()
		of := n.Object
		if i == 0 {
			of = o.leased()
		}
		found, err := o.t.o.Coordinator.Look(limited, of)
		cancel()
		if err != nil {
			o.trouble(ctx, err)
			return
		}
		o.mu.Lock()
		o.looked = asked
		if i == 0 && of.Turn == o.turn { // else it was passed by meanwhile
			o.answer = time.Since(asked)
			o.see(found)
		}
		o.add(n, found)
		o.mu.Unlock()
	}
}

// trouble notes that an engine did not do its work: what is left of this object comes
// from the registry, but for what is known to be in the fleet.
func (o *Object) trouble(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) { // who waited has left, which says nothing about engines
		return
	}
	o.t.o.Log.Debug("the fleet is of no help", "err", err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fallen, o.troubled = true, true
}

func count(hashes []coordinator.Hash) (n int) {
	for _, h := range hashes {
		if h != (coordinator.Hash{}) {
			n++
		}
	}
	return n
}

// add notes where parts are. Caller holds mu.
func (o *Object) add(n named, found coordinator.Found) {
	for _, w := range found.Writers {
		if w.State == coordinator.Whole || w.Size != o.size || w.Writing == o.writing || o.lost[w.Writing] || !o.t.trusts(w.Node, w.Writing) {
			continue
		}
		for part, hash := range w.Parts {
			at := place{n, w.Node, w.Writing, hash}
			if hash != (coordinator.Hash{}) && len(o.at[part]) < maxPlaces && !slices.ContainsFunc(o.at[part], at.same) {
				o.at[part] = append(o.at[part], at)
			}
		}
	}
}

func (p place) same(other place) bool { return p.node == other.node && p.writing == other.writing }

// Size is how long the object is.
func (o *Object) Size() int64 { return o.size }

// Piece is how long the pieces are that the next bytes come in: parts, or, from the
// registry, what it is asked for at the least.
func (o *Object) Piece() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Now().Before(o.held) || o.fallen || o.alone {
		return leastAsked
	}
	return seal.BigPart
}

// Leave says that the registry has another blob, or no pieces of it: what is left of the
// download is nobody else's business.
func (o *Object) Leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.alone = true
}

// count notes once how the object is got.
func (o *Object) count(r Result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.result == "" {
		o.result = r
		o.t.o.Metrics.download(r)
	}
}
