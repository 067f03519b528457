package fleet

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"berth/fleet/coordinator"
	"berth/fleet/seal"
	"berth/internal/hold"
	"berth/oci"
)

// Bucket keeps sealed parts: package bucket. It gives up by itself what moves no bytes.
type Bucket interface {
	// Get reads an object into memory that it fits in, and gives what was read.
	Get(ctx context.Context, key string, into []byte) ([]byte, error)
	Put(ctx context.Context, key string, body []byte) error
	// Writable says why nothing is written now, or nil, and takes no time.
	Writable() error
	// Try says why nothing can be read now, or nil. It takes half of the patience at most,
	// and no time where that is known.
	Try(ctx context.Context) error
}

// Coordinator says who fetches what: package coordinator.
type Coordinator interface {
	Look(ctx context.Context, o coordinator.Object) (coordinator.Found, error)
	Publish(ctx context.Context, o coordinator.Object, r coordinator.Record) error
	Take(ctx context.Context, o coordinator.Object, w seal.Writing) (coordinator.Holder, bool, error)
	Renew(ctx context.Context, o coordinator.Object, w seal.Writing) (bool, error)
	Release(ctx context.Context, o coordinator.Object, w seal.Writing) error
	Slot(ctx context.Context, n int, hold time.Duration) (release func(context.Context) error, ok bool, err error)
}

// Options of New.
type Options struct {
	Bucket      Bucket
	Coordinator Coordinator
	// Public are the scopes of what everyone is shown: the first is written, all are read.
	Public func() []seal.Scope
	// Patience is how long to wait without a sign of life. If 0, 4 s.
	Patience time.Duration
	// Memory waits until n bytes are free for a part that organisation's download is to
	// read, which has them until release. If nil, there is any amount.
	Memory func(ctx context.Context, organisation string, n int64) (release func(), err error)
	// Verified withholds bytes that are not verified yet from clients.
	Verified bool
	Metrics  *Metrics
	// Log gets what an operator should know. If nil, nothing is logged.
	Log *slog.Logger
}

const (
	// partFor is how long a lease may bring no part.
	partFor = 15 * time.Second
	// registrySlots are how many go to the registry at a time, in a zone, although somebody
	// else has the lease, each for slotFor at most.
	registrySlots, slotFor = 4, time.Minute
	// vainWithin, vainFor: when two leases of one node came to nothing within the first, none
	// of that node's is waited for during the second. When so many of any nodes did, nobody's
	// is: whoever takes leases without fetching can do it under any name. Of few that says
	// nothing, where many nodes come and go: some die before they have brought anything.
	vainWithin, vainFor, vainAll = time.Minute, 10 * time.Minute, 8
	// maxUploads is how many parts are sealed and written at a time, each in 8 MiB of memory.
	maxUploads = 2
	// maxReads is how many parts are read and put on the disk at a time, whatever many
	// downloads run.
	maxReads = 3
)

// Tier is the fleet as this node sees it. It is safe for concurrent use.
type Tier struct {
	o       Options
	uploads chan struct{} // one for each part that is sealed and written
	reads   chan struct{} // one for each part that is in memory
	judges  chan struct{} // one for whoever finds out who is to blame
	parts   partMemory
	// open opens a part, and memory gives what it is read into. A test with ten thousand
	// nodes has its own, which take no memory.
	open   func(at place, part int, size int64, sealed []byte, hash bool) ([]byte, error)
	memory func(size int64) (b []byte, release func())
	// wrong holds nodes that wrote something wrong, bad those that did so twice, and
	// spoilt the writings in which it was.
	wrong, bad *hold.Table[string]
	spoilt     *hold.Table[seal.Writing]

	// idle holds nodes whose leases are not waited for.
	idle *hold.Table[string]

	mu sync.Mutex
	// vain are the leases that came to nothing lately; until ignored, none is waited for.
	vain    []vain
	ignored time.Time
	behind  behind
	careful time.Time // until when every part is hashed

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// vain is when a lease came to nothing, and whose it was.
type vain struct {
	node string
	at   time.Time
}

// New makes a tier. It asks the engines nothing.
func New(o Options) *Tier {
	if o.Patience == 0 {
		o.Patience = 4 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Memory == nil {
		o.Memory = func(context.Context, string, int64) (func(), error) { return func() {}, nil }
	}
	t := &Tier{
		o: o, uploads: make(chan struct{}, maxUploads), reads: make(chan struct{}, maxReads), judges: make(chan struct{}, 1), open: open,
		wrong: hold.New[string](1024, time.Now), bad: hold.New[string](1024, time.Now), spoilt: hold.New[seal.Writing](4096, time.Now),
		idle: hold.New[string](1024, time.Now),
	}
	t.memory = func(size int64) ([]byte, func()) {
		b, release := t.parts.get(size)
		return b, func() { release(true) }
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Close ends what runs beside downloads, and waits.
func (t *Tier) Close() {
	t.cancel()
	t.wg.Wait()
}

// Public are the scopes of what everyone is shown.
func (t *Tier) Public() []seal.Scope {
	if t.o.Public == nil {
		return nil
	}
	return t.o.Public()
}

// Object is the blob in these scopes, which organisation wants: the first is written, all
// are read. Nil: it is nothing to share.
func (t *Tier) Object(organisation string, scopes []seal.Scope, origin string, digest oci.Digest, size int64) *Object {
	if len(scopes) == 0 || size <= 0 || size > seal.MaxSize {
		return nil
	}
	o := &Object{t: t, organisation: organisation, size: size, writing: seal.NewWriting(), at: map[int][]place{}, lost: map[seal.Writing]bool{}, used: map[coordinator.Holder]map[int]place{}, looking: make(chan struct{}, 1), ended: make(chan struct{})}
	for _, s := range scopes {
		o.names = append(o.names, named{s, coordinator.Object{Name: s.Name(origin, oci.Blob, digest)}})
	}
	o.parts, o.owed = make([]coordinator.Hash, seal.Parts(size)), make([]int64, seal.Parts(size))
	return o
}

// inVain notes that a lease brought no part.
func (t *Tier) inVain(node string) {
	t.o.Metrics.vain(node)
	t.mu.Lock()
	defer t.mu.Unlock()
	now, same := time.Now(), 0
	t.vain = append(slices.DeleteFunc(t.vain, func(v vain) bool { return now.Sub(v.at) >= vainWithin }), vain{node, now})
	for _, v := range t.vain {
		if v.node == node {
			same++
		}
	}
	switch {
	case len(t.vain) >= vainAll:
		t.ignored = now.Add(vainFor)
		t.o.Log.Warn("many leases in the fleet came to nothing within a minute: none is waited for in the next ten", "node", node)
	case same >= 2:
		t.idle.For(node, node, vainFor, nil)
		t.o.Log.Warn("two leases of a node in the fleet came to nothing within a minute: none of its leases is waited for in the next ten", "node", node)
	}
}

// ignoresLeases says whether node's leases are not waited for now.
func (t *Tier) ignoresLeases(node string) bool {
	_, _, idle := t.idle.Held(node)
	t.mu.Lock()
	defer t.mu.Unlock()
	return idle || time.Now().Before(t.ignored)
}
