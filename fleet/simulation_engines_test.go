package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/gate"
	"berth/fleet/memfleet"
	"berth/fleet/seal"
	"berth/internal/secret"
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
	// perPrefix is how many reads a second there may be of keys whose first so many bytes
	// are the same; 0: no limit.
	perPrefix, prefix int
}

// services are those that the figures are made for.
func services() []service {
	return []service{
		{name: "large cloud", latency: 30 * time.Millisecond, perConnection: 85e6, perPrefix: 5500, prefix: len("v1/00")},
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

// admit counts a read, and refuses it where there are too many in this second.
func (s *store) admit(key string) (stored, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix, now := key[:s.prefix], time.Now().Unix()
	q := s.asked[prefix]
	if q.second != now {
		q = quota{second: now}
	}
	if q.n++; s.perPrefix > 0 && q.n > s.perPrefix {
		s.refused++
		return stored{}, http.StatusServiceUnavailable
	}
	s.asked[prefix] = q
	if o, ok := s.there[key]; ok {
		return o, http.StatusOK
	}
	return stored{}, http.StatusNotFound
}

type stored struct {
	size int64
	hash [32]byte
}

func newStore(s service) *store {
	return &store{service: s, out: newLink(s.all), in: newLink(s.all), zeros: make([]byte, seal.BigPart+seal.Overhead), there: map[string]stored{}, asked: map[string]quota{}, gets: perSecond{began: time.Now()}}
}

// line is how a node reaches a bucket: requests of package bucket go over it.
type line struct {
	node *simNode
	s    *store
}

func (l *line) bucket(t *testing.T) *bucket.Bucket {
	t.Helper()
	b, err := bucket.New(bucket.Options{
		Endpoint: &url.URL{Scheme: "https", Host: "s3.example.com"}, Name: "b", Transport: l,
		AccessKey: func(context.Context) (bucket.AccessKey, error) {
			return bucket.AccessKey{ID: "id", Secret: secret.New("secret")}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RoundTrip is http.RoundTripper's.
func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, key := r.Context(), strings.TrimPrefix(r.URL.Path, "/b/")
	if l.node.cut.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := rest(ctx, l.s.latency); err != nil {
		return nil, err
	}
	if r.Method == http.MethodPut {
		return l.put(ctx, key, r)
	}
	l.s.gets.add(1)
	o, status := l.s.admit(key)
	if status != http.StatusOK {
		return said(status), nil
	}
	return &http.Response{StatusCode: status, ContentLength: o.size, Body: l.send(ctx, o.size)}, nil
}

// said is an answer without an object.
func said(status int) *http.Response {
	code := map[int]string{http.StatusNotFound: "NoSuchKey", http.StatusServiceUnavailable: "SlowDown"}[status]
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("<Error><Code>" + code + "</Code></Error>"))}
}

func (l *line) put(ctx context.Context, key string, r *http.Request) (*http.Response, error) {
	hash := sha256.New()
	if _, err := io.Copy(hash, r.Body); err != nil {
		return nil, err
	}
	if err := (path{[]*link{l.s.in, l.node.up}, l.s.perConnection}).send(ctx, r.ContentLength); err != nil {
		return nil, err
	}
	if l.node.dead.Load() {
		return nil, memfleet.ErrAway
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.there[key] = stored{r.ContentLength, [32]byte(hash.Sum(nil))}
	return said(http.StatusOK), nil
}

// arrival is the body of an answer. What is read are no bytes, only how many there are.
type arrival struct {
	s     *store
	t     *transfer
	left  int64
	came  int64 // and not read
	close context.CancelFunc
}

func (l *line) send(ctx context.Context, size int64) *arrival {
	ctx, cancel := context.WithCancel(ctx)
	return &arrival{l.s, path{[]*link{l.s.out, l.node.down}, l.s.perConnection}.begin(ctx, size), size, 0, cancel}
}

func (a *arrival) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	for a.came == 0 {
		came, err := a.t.wait(time.Second)
		if err != nil {
			return 0, err
		}
		a.came = came
	}
	n := min(int64(len(p)), a.came)
	a.came, a.left = a.came-n, a.left-n
	a.s.read.Add(n)
	return int(n), nil
}

func (a *arrival) Close() error {
	a.close()
	return nil
}

// open is in the place of hashing and opening a part, which ten thousand nodes would do
// with ten terabytes: the hash that was announced is compared with the stored one's.
func (s *store) open(at place, part int, _ int64, sealed []byte, _ bool) ([]byte, error) {
	s.mu.Lock()
	o := s.there[seal.ObjectKey(at.Name, at.writing, part)]
	s.mu.Unlock()
	if o.hash != at.hash || int64(len(sealed)) != o.size {
		return nil, errWrong
	}
	return sealed[:len(sealed)-seal.Overhead], nil
}
