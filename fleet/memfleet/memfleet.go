// Package memfleet has the fleet's engines in memory, for tests: a bucket and a
// coordinator that fail on demand, and that a hostile node can write to as an honest one
// can.
package memfleet

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/seal"
)

// ErrAway is what an engine answers that is away.
var ErrAway = errors.New("away")

// Bucket keeps objects. The zero Bucket is empty.
type Bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	// Gets and Puts count calls.
	Gets, Puts int
	// Fault, if not nil, is asked before each call.
	Fault func(ctx context.Context, op, key string) error
	// Body changes what is read.
	Body func(key string, body []byte) []byte
}

// Set changes the bucket's faults.
func (b *Bucket) Set(f func(*Bucket)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

// Get is the bucket's.
func (b *Bucket) Get(ctx context.Context, key string, into []byte) ([]byte, error) {
	if err := b.before(ctx, "get", key); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Gets++
	body, ok := b.objects[key]
	switch {
	case !ok:
		return nil, bucket.ErrNotFound
	case b.Body != nil:
		body = b.Body(key, body)
	}
	if len(body) > len(into) {
		return nil, bucket.ErrTooLong
	}
	return into[:copy(into, body)], nil
}

// Put is the bucket's.
func (b *Bucket) Put(ctx context.Context, key string, body []byte) error {
	if err := b.before(ctx, "put", key); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Puts++
	if b.objects == nil {
		b.objects = map[string][]byte{}
	}
	b.objects[key] = bytes.Clone(body)
	return nil
}

// Writable is the bucket's.
func (b *Bucket) Writable() error { return nil }

// Try is the bucket's.
func (b *Bucket) Try(ctx context.Context) error { return b.before(ctx, "try", "v1/probe") }

func (b *Bucket) before(ctx context.Context, op, key string) error {
	b.mu.Lock()
	fault := b.Fault
	b.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, op, key); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// All is what lies there, by key.
func (b *Bucket) All() map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.objects)
}

// Coordinator is the state that nodes share.
type Coordinator struct {
	mu      sync.Mutex
	objects map[string]*object
	slots   int
	fault   func(ctx context.Context, op string) error
}

type object struct {
	leases  map[int]lease        // by turn
	writers []coordinator.Writer // the last first
}

type lease struct {
	holder coordinator.Holder
	until  time.Time
}

// holder is whose lease of that turn is alive.
func (o *object) holder(turn int) coordinator.Holder {
	if l := o.leases[turn]; time.Now().Before(l.until) {
		return l.holder
	}
	return coordinator.Holder{}
}

func (o *object) lease(turn int, h coordinator.Holder) {
	o.leases[turn] = lease{h, time.Now().Add(coordinator.LeaseTime)}
}

// Fail sets what fails: f is asked before each call.
func (c *Coordinator) Fail(f func(ctx context.Context, op string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

// Flush forgets everything.
func (c *Coordinator) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects, c.slots = nil, 0
}

// Node is the coordinator as the node of that name sees it.
func (c *Coordinator) Node(name string) *Node { return &Node{c: c, name: name} }

// Node is a fleet.Coordinator.
type Node struct {
	c    *Coordinator
	name string
	dead atomic.Bool
}

// Kill ends all that the node says and writes, as a SIGKILL does.
func (n *Node) Kill() { n.dead.Store(true) }

// In is the bucket as the node sees it.
func (n *Node) In(b *Bucket) *NodeBucket { return &NodeBucket{b, n} }

// NodeBucket is a bucket as a node sees it.
type NodeBucket struct {
	*Bucket

	n *Node
}

// Put is the bucket's, while the node lives.
func (b *NodeBucket) Put(ctx context.Context, key string, body []byte) error {
	if b.n.dead.Load() {
		return ErrAway
	}
	return b.Bucket.Put(ctx, key, body)
}

func (c *Coordinator) of(name string) *object {
	if c.objects == nil {
		c.objects = map[string]*object{}
	}
	o := c.objects[name]
	if o == nil {
		o = &object{leases: map[int]lease{}}
		c.objects[name] = o
	}
	return o
}

func (n *Node) do(ctx context.Context, op, name string, f func(*object)) error {
	if n.dead.Load() {
		return ErrAway
	}
	n.c.mu.Lock()
	fault := n.c.fault
	n.c.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, op); err != nil {
			return err
		}
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f(n.c.of(name))
	return nil
}

// Look is fleet.Coordinator's, as are those below.
func (n *Node) Look(ctx context.Context, at coordinator.Object) (found coordinator.Found, err error) {
	err = n.do(ctx, "look", at.Name, func(o *object) {
		found.Holder = o.holder(at.Turn)
		for _, w := range o.writers {
			w.Parts = slices.Clone(w.Parts)
			found.Writers = append(found.Writers, w)
		}
	})
	return found, err
}

// maxWriters is how many records of an object are looked at.
const maxWriters = 4

// Publish says something under the node's name.
func (n *Node) Publish(ctx context.Context, at coordinator.Object, r coordinator.Record) error {
	return n.do(ctx, "publish", at.Name, func(o *object) {
		o.writers = slices.DeleteFunc(o.writers, func(w coordinator.Writer) bool { return w.Node == n.name })
		o.writers = append([]coordinator.Writer{{Node: n.name, Record: r}}, o.writers...)
		o.writers = o.writers[:min(len(o.writers), maxWriters)]
	})
}

// Take takes the lease.
func (n *Node) Take(ctx context.Context, at coordinator.Object, w seal.Writing) (h coordinator.Holder, ok bool, err error) {
	err = n.do(ctx, "take", at.Name, func(o *object) {
		if o.holder(at.Turn) == (coordinator.Holder{}) {
			o.lease(at.Turn, coordinator.Holder{Node: n.name, Writing: w})
		}
		h = o.holder(at.Turn)
		ok = h == (coordinator.Holder{Node: n.name, Writing: w})
	})
	return h, ok, err
}

// Renew renews it.
func (n *Node) Renew(ctx context.Context, at coordinator.Object, w seal.Writing) (ok bool, err error) {
	err = n.do(ctx, "renew", at.Name, func(o *object) {
		if ok = o.holder(at.Turn) == (coordinator.Holder{Node: n.name, Writing: w}); ok {
			o.lease(at.Turn, o.holder(at.Turn))
		}
	})
	return ok, err
}

// Release gives it back.
func (n *Node) Release(ctx context.Context, at coordinator.Object, w seal.Writing) error {
	return n.do(ctx, "release", at.Name, func(o *object) {
		if o.holder(at.Turn) == (coordinator.Holder{Node: n.name, Writing: w}) {
			delete(o.leases, at.Turn)
		}
	})
}

// Slot takes one of the slots.
func (n *Node) Slot(ctx context.Context, most int, _ time.Duration) (release func(context.Context) error, ok bool, err error) {
	err = n.do(ctx, "slot", "", func(*object) {
		if ok = n.c.slots < most; ok {
			n.c.slots++
		}
	})
	if !ok || err != nil {
		return nil, false, err
	}
	back := sync.OnceFunc(func() {
		n.c.mu.Lock()
		defer n.c.mu.Unlock()
		n.c.slots--
	})
	return func(context.Context) error { back(); return nil }, true, nil
}
