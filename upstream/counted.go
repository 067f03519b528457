package upstream

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"time"
)

// isDead looks whether c is dead, before a request over it is repeated that the
// registry counts. again says that this was looked at before.
//
// The kernel knows when the other end acknowledges nothing. Where it does, or where
// something between acknowledges in its place, the header of the same thing is asked
// for, which costs nothing, out of the same pool. With HTTP/2 that is the same
// connection, and what comes over it, whatever it is, shows that it lives: then the
// registry has the GET and is slow with it. HTTP/1.1 has no room for a second request
// on a connection. There the HEAD goes over another one, and its silence shows that
// the pool is dead. Its answer shows nothing about c; then only the kernel, or the
// death of a neighbour that became known meanwhile, does.
func (x *exchange) isDead(c *conn, quiet time.Duration, again bool) bool {
	came := c.came.Load()
	if c.isUnacknowledged() || again && c.pool.dead.Load() {
		return true
	}
	answered, reused := x.ask(c, quiet)
	return c.came.Load() == came && !x.isOver() && !answered && reused
}

// ask sends the HEAD of x out of the pool of c. It says whether there was an answer
// within a time, and whether it went over a connection that was open before.
func (x *exchange) ask(c *conn, within time.Duration) (answered, reused bool) {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	wait := quietTimer{f: cancel}
	defer wait.stop()
	wait.begin(within)
	head := x.req.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
	}))
	head.Method = http.MethodHead
	start := time.Now()
	resp, err := c.pool.meta.RoundTrip(head)
	x.s.metrics.try(x.s.label, opHead, resp, err, time.Since(start))
	if err == nil {
		_ = resp.Body.Close() // of a HEAD there is none
	}
	// An error that came by itself is no silence.
	return err == nil, reused && (err == nil || ctx.Err() != nil)
}
