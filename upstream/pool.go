package upstream

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pools hand out the transports to an origin, and put new ones in their place when
// a connection of the present ones is found to be dead.
//
// What kills one connection without a word (a suspend, a NAT or a load balancer
// that forgets, a route that moved) kills its neighbours too, those to token hosts
// and redirect targets as well. So all of a pool is given up together: else a pull
// would find out about each of them for itself, one second at a time. net/http has
// no way to ask for a new connection, or to keep a request off an HTTP/2 connection
// that other requests still wait on; a new transport is both. What is under way in
// the old pool goes on there.
type pools struct {
	options transportOptions
	// dial opens connections. Tests put a network in memory here.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	used atomic.Int64 // when a request was last sent, in Unix nanoseconds

	mu      sync.Mutex
	current *pool
	retired []*pool // those that had connections when they were last looked at
}

// pool is the two ways to an origin. Requests and short answers share HTTP/2
// connections: Quay, for one, lets ten times as many requests through there. The
// bytes of blobs come over HTTP/1.1: parallel ranges on one HTTP/2 connection share
// its one TCP window and gain nothing.
// At registries that organisations bring both speak HTTP/1.1: net/http reads whatever
// frames a server sends over HTTP/2, at a core for each connection, and closes one of
// HTTP/1.1 at the first byte that nobody asked for.
type pool struct {
	of         *pools
	meta, blob *http.Transport
	open       atomic.Int64 // connections
	// dead says that one of the connections is known to be dead.
	dead atomic.Bool
}

func newPools(o transportOptions) *pools {
	p := &pools{options: o, dial: o.dialer.DialContext}
	p.current = p.make()
	o.all.add(p)
	return p
}

func (p *pools) make() *pool {
	n := &pool{of: p, meta: newTransport(p.options, p.options.http2), blob: newTransport(p.options, false)}
	n.meta.DialContext, n.blob.DialContext = n.dial, n.dial
	return n
}

func (p *pool) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := p.of.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	p.open.Add(1)
	p.of.options.all.opened()
	return &conn{Conn: raw, pool: p, born: time.Now()}, nil
}

func (p *pools) now() *pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// retire keeps further requests off the connections of p. net/http closes those
// that are idle now, and those of HTTP/1.1 when they have become so. The ones of
// HTTP/2 are looked at again when nothing waits for a header on them any more.
func (p *pool) retire() {
	all := p.of
	all.mu.Lock()
	if all.current == p {
		all.current = all.make()
		time.AfterFunc(headerTimeout, p.closeIdle)
		all.retired = append(slices.DeleteFunc(all.retired, func(old *pool) bool { return old.open.Load() == 0 }), p)
	}
	all.mu.Unlock()
	p.closeIdle()
}

func (p *pool) closeIdle() {
	p.meta.CloseIdleConnections()
	p.blob.CloseIdleConnections()
}

func (p *pools) close() {
	p.options.all.remove(p)
	p.closeIdle()
}

// closeIdle closes what is open and not used.
func (p *pools) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current.closeIdle()
	for _, old := range p.retired {
		old.closeIdle() // HTTP/2 connections that have become idle since
	}
}

// pooledTransport is one of the two transports of whatever pool is the present one.
type pooledTransport struct {
	of   *pools
	blob bool
}

// RoundTrip sends req.
func (l pooledTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	p := l.of.now()
	l.of.used.Store(time.Now().UnixNano())
	if l.blob {
		return p.blob.RoundTrip(req)
	}
	return p.meta.RoundTrip(req)
}

// conn is a connection that knows when it last heard from its peer.
type conn struct {
	net.Conn
	pool *pool
	born time.Time
	// heard is when bytes last came, in nanoseconds after born, and came how often
	// they have: a clock may be too coarse to tell two moments apart.
	heard  atomic.Int64
	came   atomic.Uint64
	closed sync.Once
}

// Read reads, and notes that the peer is there.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(int64(time.Since(c.born)))
		c.came.Add(1)
	}
	return n, err
}

// silentFor waits for d, and says whether nothing came meanwhile, or since came was
// read. Where done is closed first, it does not know, and says no.
func (c *conn) silentFor(done <-chan struct{}, d time.Duration, came uint64) bool {
	over := make(chan struct{})
	wait := quietTimer{f: func() { close(over) }}
	defer wait.stop()
	wait.begin(d)
	select {
	case <-over:
		return c.came.Load() == came
	case <-done:
		return false
	}
}

// Close closes the connection.
func (c *conn) Close() error {
	c.closed.Do(func() {
		c.pool.open.Add(-1)
		c.pool.of.options.all.closed()
	})
	return c.Conn.Close()
}

// lastHeard is when bytes last came.
func (c *conn) lastHeard() time.Time { return c.born.Add(time.Duration(c.heard.Load())) }

// connOf is the conn below what net/http calls a connection, which may be TLS, or
// TLS through a proxy that is itself spoken to in TLS; nil if there is none.
func connOf(c net.Conn) *conn {
	for {
		switch below := c.(type) {
		case *conn:
			return below
		case interface{ NetConn() net.Conn }:
			c = below.NetConn()
		default:
			return nil
		}
	}
}
