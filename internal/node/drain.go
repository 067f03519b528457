package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// drainFor is how long running answers may take after the signal to stop. A
	// client that is cut off resumes by Range.
	drainFor = 10 * time.Second
	// greetFor is how long a new connection may then be without a request. Go's
	// clients open one in reserve when all are busy, and would be waited for; one
	// that is about to be used is used at once.
	greetFor = time.Second
	// drainTick is how often it is looked whether all are gone.
	drainTick = 5 * time.Millisecond
)

// serving is a way to serve on a socket, as http.Server's Serve is.
type serving func(*http.Server, net.Listener) error

// plainly is HTTP without TLS.
func plainly(s *http.Server, l net.Listener) error { return s.Serve(l) }

// serveBeside serves l until ctx ends. Pulls do not depend on it, so an error is logged.
func (n *node) serveBeside(ctx context.Context, s *http.Server, l net.Listener, serve serving) {
	if err := serveOn(ctx, s, l, serve); err != nil {
		n.log.Error("pulls go on, but nothing is shown or ordered here any more", "err", err)
	}
}

// serveOn serves l until ctx ends, then lets running answers finish for a while.
func serveOn(ctx context.Context, s *http.Server, l net.Listener, serve serving) error {
	var g connTracker
	s.ConnState = g.note
	closed := make(chan struct{}) // when nobody is accepted any more
	drained := make(chan error, 1)
	stay := context.AfterFunc(ctx, func() {
		_ = l.Close() // who comes now waits for the next process
		<-closed
		drained <- g.drain(s)
	})
	err := serve(s, l)
	close(closed)
	if !stay() {
		return <-drained
	}
	return fmt.Errorf("serving %s: %w", l.Addr(), err)
}

// connTracker has the open connections of a server.
type connTracker struct {
	open  atomic.Int64
	fresh sync.Map // of net.Conn: have not asked for anything yet
}

// note is for http.Server.ConnState.
func (t *connTracker) note(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		t.open.Add(1)
		t.fresh.Store(conn, nil)
		return
	case http.StateClosed, http.StateHijacked:
		t.open.Add(-1)
	}
	t.fresh.Delete(conn)
}

// drain waits until every request has its answer, at most drainFor, and closes
// what is left. It does without http.Server.Shutdown, which drops the first
// request of a connection that it has just accepted, and whose client has no
// reason to send it again; without keep-alive each connection ends with its answer.
// (A request that meets the end of an idle connection is sent again by clients.)
func (t *connTracker) drain(s *http.Server) error {
	end, greeted := time.NewTimer(drainFor), time.NewTimer(greetFor)
	ticks := time.NewTicker(drainTick)
	defer func() { end.Stop(); greeted.Stop(); ticks.Stop() }()
	for t.open.Load() > 0 {
		s.SetKeepAlivesEnabled(false) // and closes the idle ones
		select {
		case <-ticks.C:
		case <-greeted.C:
			t.closeUnused()
		case <-end.C:
			return s.Close() // what still runs is cut off; clients resume
		}
	}
	return s.Close()
}

// closeUnused closes the connections on which nothing was asked.
func (t *connTracker) closeUnused() {
	t.fresh.Range(func(conn, _ any) bool {
		if conn, ok := conn.(net.Conn); ok {
			_ = conn.Close() // nobody waits for anything here
		}
		return true
	})
}
