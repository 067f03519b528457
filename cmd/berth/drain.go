package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
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
)

// serveBeside is serveOn for what pulls do not depend on.
func (n *node) serveBeside(ctx context.Context, s *http.Server, l listening) {
	if err := serveOn(ctx, s, l, nil); err != nil {
		n.log.Error("pulls go on, but nothing is shown or ordered here any more", "err", err)
	}
}

// serveOn serves l until ctx ends, then lets running answers finish for a while.
func serveOn(ctx context.Context, s *http.Server, l listening, cert *certificate) error {
	idle := &newcomers{}
	s.ConnState = idle.note
	stopped := make(chan error, 1)
	stay := context.AfterFunc(ctx, func() { stopped <- shutDown(ctx, s, idle) })
	err := l.serve(s, cert)
	if errors.Is(err, http.ErrServerClosed) || !stay() {
		return <-stopped
	}
	return fmt.Errorf("serving %s: %w", l.Addr(), err)
}

func shutDown(ctx context.Context, s *http.Server, idle *newcomers) error {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	greeted := time.AfterFunc(greetFor, idle.close)
	defer greeted.Stop()
	if s.Shutdown(grace) == nil {
		return nil
	}
	return s.Close() // what still runs is cut off; clients resume
}

// newcomers are a server's connections that have not asked for anything yet.
// http.Server.Shutdown gives them five seconds. (A sync.Map, since each request
// of each connection comes by here, and finds nothing.)
type newcomers struct{ all sync.Map } // of net.Conn

// note is for http.Server.ConnState.
func (c *newcomers) note(conn net.Conn, state http.ConnState) {
	if state == http.StateNew {
		c.all.Store(conn, nil)
	} else {
		c.all.Delete(conn)
	}
}

func (c *newcomers) close() {
	c.all.Range(func(conn, _ any) bool {
		if conn, ok := conn.(net.Conn); ok {
			_ = conn.Close() // its client has asked for nothing
		}
		return true
	})
}
