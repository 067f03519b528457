package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"berth/oci"
)

const (
	// strangerIdle is how long a connection may be without a request before somebody
	// got past the login on it. Clients that were told to log in do so at once.
	strangerIdle = 10 * time.Second
	// strangerYields is how long a stranger has for his first request before his place
	// may go to the next one. It is short: whoever accepts connections waits for it,
	// and behind it the queue in which the node's own question stands too.
	strangerYields = 10 * time.Millisecond
	// yieldAfter is how long another connection must have been without a request before
	// it may be closed for a new one, and yieldTick how often that is looked at.
	yieldAfter, yieldTick = 250 * time.Millisecond, 50 * time.Millisecond
	// placeWait is how long a request waits for a place, as it does for its
	// organisation's limit.
	placeWait = 5 * time.Second
	// shortageSaid is how often a shortage is logged.
	shortageSaid = time.Minute
)

// trust is how much is known of whoever uses a connection.
type trust int32

const (
	stranger trust = iota // nothing: no request of his got past the login
	guest                 // he is at a listener that asks nobody who he is
	known                 // he has proven who he is
	itself                // it is this node, which asks itself whether it answers
)

// Connections are those that are open at the listeners that share it. Each takes a
// file descriptor and memory before anybody has said who he is, so there are limits:
// strangers have places of their own, and whoever gets past the login takes another.
//
// Accepting never waits for longer than a moment, since all would wait, also the node
// that asks itself. Where strangers have no place left, the one that is silent for
// longest gives way. Where the others have none, one without a request gives way, a
// guest's before that of somebody who has proven who he is; where all are busy, a
// request waits for a while.
type Connections struct {
	most, mostStrangers int
	idle, wait          time.Duration // strangerIdle and placeWait, but for tests
	// stall is how long a request may keep a place that others want. 0: for as long as
	// it takes, since pulls last.
	stall time.Duration
	log   *slog.Logger

	mu        sync.Mutex
	strangers map[*conn]struct{}
	inside    map[*conn]struct{} // the others
	waiting   int                // strangers that want to be inside
	freed     chan struct{}      // closed when there may be a place inside
	own       map[netip.AddrPort]struct{}
	said      time.Time // when a shortage was logged
}

// NewConnections makes room for most connections. Requests that take longer than stall
// give way to others; 0: they do not.
func NewConnections(most int, stall time.Duration, log *slog.Logger) *Connections {
	const fewest, mostEver = 4, 1024 // strangers; that is about 20 MiB
	strangers := min(max(most/4, fewest), mostEver)
	return &Connections{
		most: max(most-strangers, 1), mostStrangers: strangers, idle: strangerIdle, wait: placeWait, stall: stall, log: log,
		strangers: map[*conn]struct{}{}, inside: map[*conn]struct{}{}, freed: make(chan struct{}), own: map[netip.AddrPort]struct{}{},
	}
}

// Listener is l with connections that are counted here, and that a Server can send
// small answers over in one write: a write is most of what a warm manifest costs, and
// each wakes the client. They are TCP's; others are passed on as they are.
func (s *Connections) Listener(l net.Listener) net.Listener { return &listener{Listener: l, all: s} }

// Attend has s tell when a connection is busy, for a server whose own handler does not.
func (s *Connections) Attend(server *http.Server) {
	server.ConnContext = withConn
	server.Handler = attended(server.Handler)
}

// LetIn is next for those who have a place inside. Whoever gets to it has proven who he
// is, or need not.
func (s *Connections) LetIn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := peerOf(r.Context()).letIn(r.Context(), known); err != nil {
			http.Error(w, oci.AsError(err).Message, http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// attended is next, with the connection marked as busy meanwhile.
func attended(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := peerOf(r.Context())
		c.beginRequest()
		defer c.endRequest()
		next.ServeHTTP(w, r)
	})
}

type listener struct {
	net.Listener

	all *Connections
}

// Accept gives the next connection that there is a place for; others end.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		t, ok := c.(*net.TCPConn)
		if !ok || err != nil {
			return c, err
		}
		own := &conn{TCPConn: t, all: l.all}
		own.since.Store(time.Now().UnixNano())
		if l.all.admit(own) {
			return own, nil
		}
		_ = t.Close() // nothing was said on it
	}
}

// admit counts c as a stranger's. False: every other stranger has a request that is
// being answered.
func (s *Connections) admit(c *conn) bool {
	for {
		ok, again := s.tryAdmit(c)
		if again == 0 {
			return ok
		}
		time.Sleep(again) // for strangerYields at most
	}
}

// tryAdmit gives c a place, if need be that of another stranger, who may have a moment
// left for his first request.
func (s *Connections) tryAdmit(c *conn) (ok bool, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOwn(c) {
		c.trust.Store(int32(itself))
		return true, 0
	}
	if len(s.strangers) >= s.mostStrangers {
		s.complain()
		silent := longest(s.strangers, (*conn).asksNothing)
		if silent == nil {
			return false, 0
		}
		if left := strangerYields - silent.age(); left > 0 {
			return false, left
		}
		s.drop(silent)
	}
	s.strangers[c] = struct{}{}
	return true, 0
}

// longest is the one of all that may yield and has been as it is for longest, of those that
// are trusted least.
func longest(all map[*conn]struct{}, mayYield func(*conn) bool) (first *conn) {
	for c := range all {
		if !mayYield(c) {
			continue
		}
		if first == nil || c.trust.Load() < first.trust.Load() ||
			c.trust.Load() == first.trust.Load() && c.since.Load() < first.since.Load() {
			first = c
		}
	}
	return first
}

// mayYield says whether c, which is inside, may be closed for another one.
func (s *Connections) mayYield(c *conn) bool {
	if c.asksNothing() { // where the queue is full, nobody stays for what he may ask later
		return s.waiting >= s.mayWait() || c.age() >= yieldAfter
	}
	return s.stall > 0 && c.age() >= s.stall
}

// mayWait is how many strangers wait at most: others need places to ask from.
func (s *Connections) mayWait() int { return (s.mostStrangers + 1) / 2 }

// letIn gives c a place inside, and waits for one.
func (s *Connections) letIn(ctx context.Context, c *conn, as trust) error {
	freed, ok, waits := s.takeOrWait(c, as)
	if ok {
		return nil
	}
	if !waits {
		return noPlace()
	}
	defer s.leave()
	end, ticks := time.NewTimer(s.wait), time.NewTicker(yieldTick)
	defer end.Stop()
	defer ticks.Stop()
	for {
		select {
		case <-freed:
		case <-ticks.C:
		case <-end.C:
			return noPlace()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.mu.Lock()
		freed, ok = s.take(c, as)
		s.mu.Unlock()
		if ok {
			return nil
		}
	}
}

// takeOrWait gives c a place inside, or else counts it among those that wait for one, if
// it may wait.
func (s *Connections) takeOrWait(c *conn, as trust) (freed <-chan struct{}, ok, waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if freed, ok = s.take(c, as); ok || s.waiting >= s.mayWait() {
		return freed, ok, false
	}
	s.waiting++
	return freed, false, true
}

// take gives c a place inside, if need be that of another one. Caller holds mu.
func (s *Connections) take(c *conn, as trust) (freed <-chan struct{}, ok bool) {
	if _, outside := s.strangers[c]; outside {
		if len(s.inside) >= s.most {
			s.complain()
			yields := longest(s.inside, s.mayYield)
			if yields == nil {
				return s.freed, false
			}
			s.drop(yields)
		}
		delete(s.strangers, c)
		s.inside[c] = struct{}{}
	}
	c.trust.Store(int32(as))
	return nil, true
}

func (s *Connections) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
}

func noPlace() error {
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusServiceUnavailable, Code: oci.CodeUnknown, RetryAfter: placeWait,
		Message: "every connection that this node may have is busy: pull again in a moment; whoever runs the node lets berth open more files (LimitNOFILE= or ulimit -n)",
	}
}

// drop ends c, which asks for nothing that it could still get. Caller holds mu.
func (s *Connections) drop(c *conn) {
	s.remove(c)
	_ = c.TCPConn.Close() // whoever reads or writes it finds out
}

// remove counts c no more. Caller holds mu.
func (s *Connections) remove(c *conn) {
	delete(s.strangers, c)
	if _, there := s.inside[c]; there {
		delete(s.inside, c)
		close(s.freed)
		s.freed = make(chan struct{})
	}
}

// complain logs a shortage now and then. Caller holds mu.
func (s *Connections) complain() {
	if now := time.Now(); now.Sub(s.said) >= shortageSaid {
		s.said = now
		s.log.Warn("there are too many connections: idle ones are closed, and new ones may wait: find out which program opens them, or let berth open more files (LimitNOFILE= or ulimit -n)",
			"open", len(s.strangers)+len(s.inside), "strangers", len(s.strangers))
	}
}

// short says that places are scarce, so that strangers should not stay.
func (s *Connections) short() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return 2*len(s.strangers) > s.mostStrangers || 4*len(s.inside) > 3*s.most
}

// beginRequest and endRequest surround the answer to a request. A nil conn is no
// Listener's.
func (c *conn) beginRequest() {
	if c != nil {
		c.since.Store(time.Now().UnixNano())
		c.active.Add(1)
	}
}

func (c *conn) endRequest() {
	if c != nil {
		c.since.Store(time.Now().UnixNano())
		c.active.Add(-1)
	}
}

func (c *conn) asksNothing() bool  { return c.active.Load() == 0 }
func (c *conn) age() time.Duration { return time.Duration(time.Now().UnixNano() - c.since.Load()) }

// letIn notes that a request got past the login, and gives the connection a place
// among those of which that is so.
func (c *conn) letIn(ctx context.Context, as trust) error {
	if c == nil || c.trust.Load() == int32(as) {
		return nil
	}
	return c.all.letIn(ctx, c, as)
}

// shouldEnd says that the connection should end with the answer, since places are
// scarce: that of a stranger, and of whoever is told to come again later.
func (c *conn) shouldEnd(status int) bool {
	return c != nil && (c.trust.Load() == int32(stranger) || status == http.StatusServiceUnavailable) && c.all.short()
}

// SetReadDeadline lets strangers wait for less than the server would.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.trust.Load() == int32(stranger) {
		if most := time.Now().Add(c.all.idle); t.After(most) {
			t = most
		}
	}
	return c.TCPConn.SetReadDeadline(t)
}

// Close gives back the place.
func (c *conn) Close() error {
	c.all.mu.Lock()
	c.all.remove(c)
	c.all.mu.Unlock()
	return c.TCPConn.Close()
}

// peerOf is the connection of a request, also below TLS, if it is a Listener's.
func peerOf(ctx context.Context) *conn {
	switch c := ctx.Value(connKey{}).(type) {
	case *conn:
		return c
	case *tls.Conn:
		below, _ := c.NetConn().(*conn)
		return below
	}
	return nil
}
