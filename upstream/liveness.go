package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// leastFlow is what a body must have brought for its connection to be given up
// soon after another one: a host that stops after some bytes on each connection
// does so by itself, and new connections do not help.
const (
	leastFlow = 256 << 10
	cutAgain  = time.Minute
)

// watched is a body that is given up when its connection died in the middle of it.
// Silence alone is no sign of that, since there are registries that drip. It is when
// the host gives the very next byte to somebody who asks for it over a new connection
// and still nothing comes over this one.
type watched struct {
	io.ReadCloser
	x      *exchange
	conn   *conn
	base   int64 // where the body begins in what it is a part of
	opened time.Time

	mu   sync.Mutex
	wait *quietTimer
	got  int64
	// reads counts the calls of Read, so that a finding about one of them ends no
	// other. waiting: one is under way.
	reads   int
	waiting bool
	dead    bool
	doubts  int // in vain, in the present call of Read
}

// watched is the body of resp, which came over c. Caller holds mu.
func (x *exchange) watched(resp *http.Response, c *conn) io.ReadCloser {
	if x.req.Method != http.MethodGet || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return resp.Body
	}
	w := &watched{ReadCloser: resp.Body, x: x, conn: c, opened: time.Now()}
	if p, ok := contentRange(resp.Header.Get("Content-Range")); ok {
		w.base = p.offset
	}
	return w
}

// Read reads.
func (w *watched) Read(p []byte) (int, error) {
	w.await()
	n, err := w.ReadCloser.Read(p)
	if w.came(n) && err != nil {
		return n, fmt.Errorf("%w: a new connection to the same host gives what this one does not", errStall)
	}
	return n, err
}

func (w *watched) await() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	w.doubts = 0
	w.waiting = true
	if w.wait == nil {
		w.wait = &quietTimer{f: w.doubt}
	}
	w.wait.begin(w.x.quiet())
}

// came notes that n bytes came, and says whether the connection was given up.
func (w *watched) came(n int) (dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wait.stop()
	w.waiting = false
	w.got += int64(n)
	return w.dead
}

// doubt finds out why nothing comes.
func (w *watched) doubt() {
	w.mu.Lock()
	read, at := w.reads, w.base+w.got
	mine := w.waiting && w.mayCut()
	if w.waiting && !mine { // until a neighbour that has brought more is given up
		w.wait.begin(w.x.quiet())
	}
	w.mu.Unlock()
	if !mine {
		return
	}
	elsewhere := w.elsewhere(at)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.waiting || w.reads != read:
	case elsewhere:
		w.dead = true
		w.conn.pool.dead.Store(true)
		w.x.s.hostStats.gaveUp(organisationOf(w.x.ctx), w.x.key())
		w.x.cancel(errStall)
	default: // the network may not be back yet
		w.doubts++
		w.wait.begin(w.x.quiet() << w.doubts)
	}
}

// mayCut is false for a host that is known to stop on new connections as well.
// Caller holds mu.
func (w *watched) mayCut() bool {
	cut := w.x.s.hostStats.of(w.x.key()).cut
	return w.got >= leastFlow || w.opened.Before(cut) || time.Since(cut) >= cutAgain
}

// elsewhere asks for the byte at a place over a new connection, and says whether
// it came. What is counted is asked for by HEAD, and the connection has as long
// again to go on after the answer.
func (w *watched) elsewhere(at int64) bool {
	w.conn.pool.retire() // so that the connection is new, and nothing waits for its neighbours
	ctx, cancel := context.WithTimeout(w.x.ctx, headerTimeout)
	defer cancel()
	req := w.x.req.Clone(ctx)
	op, counted := w.x.op, callOf(ctx).counted
	switch {
	case counted:
		req.Method, op = http.MethodHead, opHead
	case req.Header.Get("Accept") == acceptBlob:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at))
		if op == opBlob {
			op = opProbe
		}
	}
	begun, came := time.Now(), w.conn.came.Load()
	resp, err := w.x.via.RoundTrip(req)
	w.x.s.metrics.try(w.x.s.label, op, resp, err, time.Since(begun))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if counted {
		return w.conn.silentFor(ctx.Done(), w.x.quiet(), came)
	}
	return gives(resp)
}

// gives says whether an answer has the byte that was asked for, or sends for it
// elsewhere: a signed URL may be too old by now, and the registry makes new ones.
func gives(resp *http.Response) bool {
	switch {
	case resp.StatusCode/100 == 2:
		_, err := io.ReadFull(resp.Body, make([]byte, 1))
		return err == nil
	case isRedirect(resp.StatusCode):
		return true
	}
	return resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
}

// Close ends the request.
func (w *watched) Close() error {
	w.mu.Lock()
	w.wait.stop()
	w.waiting = false
	w.mu.Unlock()
	return w.ReadCloser.Close()
}
