package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync"
	"syscall"
	"time"

	"berth/oci"
)

// maxLost is how often one request may be sent again since its connection was
// dead. Each time it goes over connections that were made afterwards, so a second
// time means that the network is still at it.
const maxLost = 2

// errLost ends a request whose connection, open before, is dead. It says nothing
// about the registry.
var errLost = errors.New("a connection that was open before gave no answer")

// exchange is one request on the wire, and the connection that it went over.
type exchange struct {
	s   *sender
	via http.RoundTripper
	req *http.Request // as it was sent
	op  operation
	// ctx is that of req without the trace: other requests about it are traced
	// apart.
	ctx context.Context
	// cancel ends the request, also while its body is read.
	cancel context.CancelCauseFunc
	// limit is how often the connection may still be given up: 0, the request
	// waits for as long as on a new connection.
	limit int

	// patient: an earlier try of this request had no answer in time.
	patient bool
	over    chan struct{} // closed when there is a header, or an error

	mu     sync.Mutex // guards all below
	conn   *conn      // nil: none yet, or the transport is not ours
	reused bool
	got    time.Time // when conn was there
	came   uint64    // how often it had been heard then
	wait   *quietTimer
	doubts int // in vain, over the present connection
	lost   bool
	waited time.Duration // until it was lost, or there was a header
}

// begin prepares req to be sent once. A request that is not a question is never
// given up: it may have done what it was to do.
func (s *sender) begin(ctx context.Context, via http.RoundTripper, req *http.Request, op operation, limit int) *exchange {
	x := &exchange{s: s, via: via, op: op, limit: limit, over: make(chan struct{})}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		x.limit = 0
	}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	x.req = req.WithContext(httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{GotConn: x.gotConn}))
	return x
}

// gotConn hears over which connection the request goes; again, when net/http itself
// sends it once more.
func (x *exchange) gotConn(i httptrace.GotConnInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wait.stop()
	if x.isOver() {
		return
	}
	if x.conn = connOf(i.Conn); x.conn == nil {
		return
	}
	x.reused, x.got, x.came, x.doubts = i.Reused, time.Now(), x.conn.came.Load(), 0
	if x.limit == 0 {
		return
	}
	c, got, quiet, look := x.conn, x.got, x.quiet(), x.silent
	if !x.reused {
		look = x.beside
	}
	if quiet < headerTimeout {
		x.wait = &quietTimer{f: func() { look(c, got) }}
		x.wait.begin(quiet)
	}
}

// beside looks at c, which was new. It is as good as one that was open before once a
// neighbour of it was in doubt: what kills connections kills the youngest too.
func (x *exchange) beside(c *conn, got time.Time) {
	if c.pool.of.now() != c.pool {
		x.silent(c, got)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.isOver() && x.conn == c {
		x.wait.begin(x.quiet())
	}
}

func (x *exchange) isOver() bool {
	select {
	case <-x.over:
		return true
	default:
		return false
	}
}

func (x *exchange) key() hostKey { return hostKey{x.req.URL.Host, x.op} }

// quiet is how long a connection may be silent.
func (x *exchange) quiet() time.Duration {
	return max(leastQuiet, usualTimes*x.s.hostStats.of(x.key()).header)
}

// silent looks whether c, which the request went over at got, is dead.
func (x *exchange) silent(c *conn, got time.Time) {
	quiet := x.quiet()
	if heard := c.lastHeard(); heard.After(got) && time.Since(heard) < quiet { // other answers on an HTTP/2 connection
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.isOver() && x.conn == c {
			x.wait.begin(quiet - time.Since(heard))
		}
		return
	}
	x.mu.Lock()
	again := x.doubts > 0
	x.mu.Unlock()
	if callOf(x.ctx).counted && x.req.Method == http.MethodGet && !x.isDead(c, quiet, again) {
		// It lives, or did a moment ago: it may die while the registry takes its time, and
		// what came may have been sent before. It is looked at again, and less often.
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.isOver() && x.conn == c {
			x.doubts++
			x.wait.begin(quiet << min(x.doubts-1, 3))
		}
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.isOver() || x.conn != c {
		return
	}
	x.lost = true
	x.cancel(errLost)
}

// ended notes that there is a header, or an error, which it returns. about says
// whether that tells anything about the registry: not when a connection that was
// open before gave no byte.
func (x *exchange) ended(resp *http.Response, err error) (about bool, _ error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.over)
	x.wait.stop()
	c := x.conn
	if c == nil {
		return true, err
	}
	x.waited = time.Since(x.got)
	switch {
	case err == nil:
		x.s.hostStats.answered(organisationOf(x.ctx), x.key(), x.waited)
		resp.Body = x.watched(resp, c)
		return true, nil
	case x.lost:
		c.pool.retire()
		return false, errLost
	}
	return x.failed(c, err)
}

// failed notes that the request ended with err and without a header. Caller holds mu.
func (x *exchange) failed(c *conn, err error) (about bool, _ error) {
	cause := context.Cause(x.ctx)
	x.cancel(nil)
	timeout := isTimeout(err) || errors.Is(cause, errNoHeader)
	silent := c.came.Load() == x.came
	switch {
	case timeout && (silent || !x.reused): // a new one of HTTP/2 has at least begun to speak
		c.pool.retire() // nothing else shall wait for it
		return !x.reused, err
	case silent && x.reused && cause == nil:
		// The kernel, or a ping of HTTP/2, found out first: then all requests on the
		// connection fail at the same moment, and would open the breaker.
		c.pool.retire()
		c.pool.dead.Store(true)
		if x.limit > 0 {
			x.lost = true
			err = errLost
		}
		return false, err
	}
	return true, err
}

// isTimeout says whether err is a limit of ours that was reached, and not one of the
// kernel's for a peer that acknowledges nothing.
func isTimeout(err error) bool {
	return classOf(err) == oci.Timeout && !errors.Is(err, syscall.ETIMEDOUT)
}

// compare learns from the answer to x, which was sent since before was lost. One that
// came sooner than before had waited shows that the connection was dead; a later one,
// that the host is slow, and the next request waits for longer.
func (x *exchange) compare(before *exchange) {
	x.mu.Lock()
	reused, took := x.reused, x.waited
	x.mu.Unlock()
	before.mu.Lock()
	c, limit := before.conn, before.waited
	before.mu.Unlock()
	switch {
	case reused || c == nil:
	case took < limit:
		c.pool.dead.Store(true)
	default:
		x.s.hostStats.slow(organisationOf(x.ctx), x.key(), took)
	}
}
