package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync"
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

type countedKey struct{}

// counting marks the requests of a call that the registry counts: Docker Hub counts
// each GET of a manifest.
func counting(ctx context.Context) context.Context {
	return context.WithValue(ctx, countedKey{}, true)
}

func isCounted(ctx context.Context) bool {
	counted, _ := ctx.Value(countedKey{}).(bool)
	return counted
}

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

	mu     sync.Mutex // guards all below
	conn   *conn      // nil: none yet, or the transport is not ours
	reused bool
	got    time.Time // when conn was there
	came   uint64    // how often it had been heard then
	wait   *quietTimer
	over   bool // there is a header, or an error
	lost   bool
}

// begin prepares req to be sent once. A request that is not a question is never
// given up: it may have done what it was to do.
func (s *sender) begin(ctx context.Context, via http.RoundTripper, req *http.Request, op operation, limit int) *exchange {
	x := &exchange{s: s, via: via, op: op, limit: limit}
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
	x.stop()
	if x.conn = connOf(i.Conn); x.conn == nil || x.over {
		return
	}
	x.reused, x.got, x.came = i.Reused, time.Now(), x.conn.came.Load()
	if !x.reused || x.limit == 0 {
		return
	}
	c, got, quiet := x.conn, x.got, x.quiet()
	if quiet < headerTimeout {
		x.wait = &quietTimer{f: func() { x.silent(c, got) }}
		x.wait.begin(quiet)
	}
}

// stop ends the wait. Caller holds mu.
func (x *exchange) stop() {
	if x.wait != nil {
		x.wait.stop()
	}
}

func (x *exchange) key() hostKey { return hostKey{x.req.URL.Host, x.op} }

// quiet is how long a connection may be silent.
func (x *exchange) quiet() time.Duration { return x.s.hostStats.quiet(x.key()) }

// silent looks whether c, which the request went over at got, is dead.
func (x *exchange) silent(c *conn, got time.Time) {
	quiet := x.quiet()
	if heard := c.lastHeard(); heard.After(got) && time.Since(heard) < quiet { // other answers on an HTTP/2 connection
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.over && x.conn == c {
			x.wait.begin(quiet - time.Since(heard))
		}
		return
	}
	if isCounted(x.ctx) && x.req.Method == http.MethodGet && !x.confirmed(c, quiet) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over || x.conn != c {
		return
	}
	x.lost = true
	x.cancel(errLost)
}

// confirmed says whether c is dead, before a request over it is repeated that the
// registry counts. It asks for the header of the same thing, which costs nothing,
// over the same transport. With HTTP/2 that is the same connection, and what comes
// over it, whatever it is, shows that it lives: then the registry has the GET and
// is slow with it. HTTP/1.1 has no room for a second request on a connection. There
// the HEAD goes over another one, and either that is silent as well, so that all of
// the pool is dead, or the registry answers there, and has as much time again to
// answer here.
func (x *exchange) confirmed(c *conn, quiet time.Duration) bool {
	came := c.came.Load()
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	wait := quietTimer{f: cancel}
	defer wait.stop()
	wait.begin(quiet)
	answered, reused := x.ask(ctx)
	switch {
	case c.came.Load() != came || x.ctx.Err() != nil:
		return false
	case !answered:
		return reused && ctx.Err() != nil
	}
	return c.silentFor(x.ctx, quiet, came)
}

// ask sends the HEAD of x, and says whether there was an answer, and whether it
// went over a connection that was open before.
func (x *exchange) ask(ctx context.Context) (answered, reused bool) {
	head := x.req.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
	}))
	head.Method = http.MethodHead
	start := time.Now()
	resp, err := x.via.RoundTrip(head)
	x.s.metrics.try(x.s.name, opHead, resp, err, time.Since(start))
	if err == nil {
		_ = resp.Body.Close() // of a HEAD there is none
	}
	return err == nil, reused
}

// ended notes that there is a header, or an error, which it returns. about says
// whether that tells anything about the registry: not when a connection that was
// open before gave no byte.
func (x *exchange) ended(resp *http.Response, err error) (about bool, _ error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	x.stop()
	c := x.conn
	switch {
	case c == nil:
		return true, err
	case err == nil:
		x.s.hostStats.answered(x.key(), time.Since(x.got))
		resp.Body = x.watched(resp, c)
		return true, nil
	case x.lost:
		c.pool.retire()
		return false, errLost
	}
	x.cancel(nil)
	timeout := classOf(err) == oci.Timeout || errors.Is(context.Cause(x.ctx), errNoHeader)
	silent := c.came.Load() == x.came
	if timeout && (silent || !x.reused) { // a new one of HTTP/2 has at least begun to speak
		c.pool.retire() // nothing else shall wait for it
	}
	return !timeout || !silent || !x.reused, err
}
