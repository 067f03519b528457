package fleet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/gate"
	"berth/fleet/memfleet"
	"berth/fleet/seal"
)

// perSecond counts what happens in each second.
type perSecond struct {
	mu    sync.Mutex
	began time.Time
	n     []int64
	all   int64
}

func (p *perSecond) add(n int64) {
	second := int(time.Since(p.began) / time.Second)
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.n) <= second {
		p.n = append(p.n, 0)
	}
	p.n[second] += n
	p.all += n
}

// peak is the most in one second.
func (p *perSecond) peak() (most int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.n {
		most = max(most, n)
	}
	return most
}

// valkey is the coordinator's engine: one thread, which does one thing after another. Its
// state is memfleet's. What each question costs is what package coordinator sends for it.
type valkey struct {
	state  *memfleet.Coordinator
	slower int

	mu   sync.Mutex
	free time.Time // when it will have done all that it was asked

	trips, sent perSecond
	longest     time.Duration // that anybody waited
}

const (
	// perTrip is what receiving and answering costs a server that does nothing else, and
	// perCommand each command of it.
	perTrip, perCommand = 8 * time.Microsecond, time.Microsecond
	// perByte is that of 10 Gbit/s.
	engineRate = 1.25e9
	// there is a round trip to an engine that has nothing to do.
	there = 500 * time.Microsecond
)

// serve waits for round trips with so many commands, and bytes in the answers.
func (v *valkey) serve(ctx context.Context, trips, commands, bytes int) error {
	takes := time.Duration(trips)*perTrip + time.Duration(commands)*perCommand + time.Duration(float64(bytes)/engineRate*float64(time.Second))
	takes *= time.Duration(v.slower)
	v.trips.add(int64(trips))
	v.sent.add(int64(bytes))
	v.mu.Lock()
	now := time.Now()
	if v.free.Before(now) {
		v.free = now
	}
	v.free = v.free.Add(takes)
	wait := v.free.Sub(now)
	v.longest = max(v.longest, wait)
	v.mu.Unlock()
	return rest(ctx, wait+time.Duration(trips)*there)
}

// asked is the coordinator as one node asks it, as package coordinator does: for a second
// at most, and not at all while it is away.
type asked struct {
	node *simNode
	at   *memfleet.Node
	v    *valkey
	gate *gate.Gate
}

func newAsked(n *simNode, v *valkey) *asked {
	c := &asked{node: n, at: v.state.Node(n.name), v: v}
	c.gate = gate.New("coordinator", nil, func(ctx context.Context) error { return c.trip(ctx, 1, 1, 0) })
	return c
}

func (c *asked) trip(ctx context.Context, trips, commands, bytes int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if c.node.cut.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.v.serve(ctx, trips, commands, bytes)
}

func (c *asked) do(ctx context.Context, trips, commands, bytes int, f func() error) error {
	err := c.gate.Enter()
	if err != nil {
		return err
	}
	if err = c.trip(ctx, trips, commands, bytes); err == nil {
		err = f()
	}
	switch {
	case err == nil:
		c.gate.Worked()
	case !errors.Is(ctx.Err(), context.Canceled):
		c.gate.Failed(err)
	}
	return err
}

func (c *asked) Look(ctx context.Context, o coordinator.Object) (found coordinator.Found, err error) {
	// Nothing waits between the two round trips and their answer, so the second one's cost
	// may come after it.
	err = c.do(ctx, 1, 2, 0, func() (err error) { found, err = c.at.Look(ctx, o); return err })
	if err != nil || len(found.Writers) == 0 && found.Holder.Node == "" {
		return found, err
	}
	bytes := 0
	for _, w := range found.Writers {
		bytes += 26 + 32*len(w.Parts) + len(w.Body)
	}
	return found, c.do(ctx, 1, max(len(found.Writers), 1), bytes, func() error { return nil })
}

func (c *asked) Publish(ctx context.Context, o coordinator.Object, r coordinator.Record) error {
	return c.do(ctx, 2, 4, 26+32*len(r.Parts)+len(r.Body), func() error { return c.at.Publish(ctx, o, r) })
}

func (c *asked) Take(ctx context.Context, o coordinator.Object, w seal.Writing) (h coordinator.Holder, ok bool, err error) {
	err = c.do(ctx, 1, 2, 0, func() (err error) { h, ok, err = c.at.Take(ctx, o, w); return err })
	return h, ok, err
}

func (c *asked) Renew(ctx context.Context, o coordinator.Object, w seal.Writing) (ok bool, err error) {
	err = c.do(ctx, 1, 2, 0, func() (err error) { ok, err = c.at.Renew(ctx, o, w); return err })
	return ok, err
}

func (c *asked) Release(ctx context.Context, o coordinator.Object, w seal.Writing) error {
	return c.do(ctx, 2, 2, 0, func() error { return c.at.Release(ctx, o, w) })
}

func (c *asked) Slot(ctx context.Context, n int, hold time.Duration) (release func(context.Context) error, ok bool, err error) {
	err = c.do(ctx, n, n, 0, func() (err error) { release, ok, err = c.at.Slot(ctx, n, hold); return err })
	return release, ok, err
}

// service is a bucket's, as fast as it is.
type service struct {
	name          string
	latency       time.Duration
	all           float64 // bytes a second, of all connections together, each way
	perConnection float64
	perPrefix     int // reads a second of what lies below one prefix; 0: no limit
}

// services are those that the figures are made for.
func services() []service {
	return []service{
		{name: "large cloud", latency: 30 * time.Millisecond, perConnection: 85e6, perPrefix: 5500},
		{name: "server of 10 Gbit/s", latency: time.Millisecond, all: 1.25e9},
		{name: "slow service", latency: 150 * time.Millisecond, all: 125e6, perConnection: 10e6},
	}
}

// store is a bucket. It keeps of each object how long it is, and its hash.
type store struct {
	service

	out, in *link

	zeros []byte // what is read, whatever was written

	mu    sync.Mutex
	there map[string]stored
	asked map[string]quota // by prefix
	// gets are requests, read bytes that went out.
	gets    perSecond
	read    atomic.Int64
	refused int64 // reads
}

// quota is what was read of a prefix in one second.
type quota struct {
	second int64
	n      int
}

var errBusy = errors.New("503 Slow Down")

// admit counts a read, or refuses it where there are too many in this second.
func (s *store) admit(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix, now := key[:len("v1/00")], time.Now().Unix()
	q := s.asked[prefix]
	if q.second != now {
		q = quota{second: now}
	}
	if q.n++; s.perPrefix > 0 && q.n > s.perPrefix {
		s.refused++
		return errBusy
	}
	s.asked[prefix] = q
	return nil
}

type stored struct {
	size int64
	hash [32]byte
}

func newStore(s service) *store {
	return &store{service: s, out: newLink(s.all), in: newLink(s.all), zeros: make([]byte, seal.BigPart+seal.Overhead), there: map[string]stored{}, asked: map[string]quota{}, gets: perSecond{began: time.Now()}}
}

// held is the bucket as one node has it, as package bucket asks it.
type held struct {
	node          *simNode
	s             *store
	reads, writes *gate.Gate
}

func newHeld(n *simNode, s *store) *held {
	b := &held{node: n, s: s}
	probe := func(ctx context.Context) error { return b.ask(ctx) }
	b.reads, b.writes = gate.New("bucket", nil, probe), gate.New("bucket", nil, probe)
	return b
}

// ask is a request until its answer begins.
func (b *held) ask(ctx context.Context) error {
	if b.node.cut.Load() {
		return cmp.Or(rest(ctx, 4*time.Second), bucket.ErrSlow)
	}
	return rest(ctx, b.s.latency)
}

func (b *held) through(ctx context.Context, g *gate.Gate, do func(context.Context) error) error {
	if err := g.Enter(); err != nil {
		return err
	}
	began := time.Now()
	err := do(ctx)
	for wait := 100 * time.Millisecond; err == errBusy && g.Since(began) < 4*time.Second; wait = min(2*wait, 2*time.Second) {
		if rest(ctx, wait/2+rand.N(wait)) != nil {
			break
		}
		err = do(ctx)
	}
	switch {
	case err == nil:
		g.Worked()
	case errors.Is(err, bucket.ErrNotFound), errors.Is(ctx.Err(), context.Canceled):
	default:
		g.Failed(err)
	}
	return err
}

func (b *held) Try(ctx context.Context) error {
	if b.reads.Since(time.Time{}) < 4*time.Second {
		return b.reads.Enter()
	}
	return b.through(ctx, b.reads, b.ask)
}

func (b *held) Get(ctx context.Context, key string, into []byte) (data []byte, err error) {
	err = b.through(ctx, b.reads, func(ctx context.Context) error {
		b.s.gets.add(1)
		if err := b.ask(ctx); err != nil {
			return err
		}
		if err := b.s.admit(key); err != nil {
			return err
		}
		b.s.mu.Lock()
		o, ok := b.s.there[key]
		b.s.mu.Unlock()
		if !ok || o.size > int64(len(into)) {
			return bucket.ErrNotFound
		}
		err := path{[]*link{b.s.out, b.node.down}, b.s.perConnection, true}.send(ctx, o.size)
		if err == nil {
			b.s.read.Add(o.size)
			data = b.s.zeros[:o.size]
		}
		return err
	})
	return data, err
}

func (b *held) Put(ctx context.Context, key string, body []byte) error {
	return b.through(ctx, b.writes, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := b.ask(ctx); err != nil {
			return err
		}
		if err := (path{[]*link{b.s.in, b.node.up}, b.s.perConnection, false}).send(ctx, int64(len(body))); err != nil {
			return err
		}
		if b.node.dead.Load() {
			return memfleet.ErrAway
		}
		o := stored{int64(len(body)), sha256.Sum256(body)}
		b.s.mu.Lock()
		defer b.s.mu.Unlock()
		b.s.there[key] = o
		return nil
	})
}

// open is in the place of hashing and opening a part, which ten thousand nodes would do
// with ten terabytes: the hash that was announced is compared with the stored one's.
func (b *held) open(at place, part int, size int64, sealed []byte) ([]byte, error) {
	b.s.mu.Lock()
	o := b.s.there[seal.ObjectKey(at.Name, at.writing, part)]
	b.s.mu.Unlock()
	if o.hash != at.hash || int64(len(sealed)) != o.size {
		return nil, errWrong
	}
	return sealed[:len(sealed)-seal.Overhead], nil
}

func (b *held) close() {
	b.reads.Close()
	b.writes.Close()
}
