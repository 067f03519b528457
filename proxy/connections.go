package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// strangerIdle is how long a connection may be without a request on which nobody
	// has proven who he is. Clients that were told to log in do so at once.
	strangerIdle = 10 * time.Second
	// yieldAfter is how long a connection must have been without a request before it
	// may be closed for another one: a request on a new one takes a moment to come.
	yieldAfter = 250 * time.Millisecond
	// yieldTick is how often it is looked whether one has been idle for so long.
	yieldTick = 50 * time.Millisecond
	// shortageSaid is how often a shortage is logged.
	shortageSaid = time.Minute
)

// Connections are those that are open at the listeners that share it. Each takes a
// file descriptor and memory before anybody has said who he is, so there are limits.
// Where they are reached a new connection takes the place of the one that has been
// idle for longest, and waits in the listener's queue if none is idle. Strangers, on
// whose connections nobody has proven who he is, give way first, and have a limit of
// their own, so that they leave places to the others.
type Connections struct {
	most, strangers int
	idle            time.Duration // of strangers
	log             *slog.Logger

	mu      sync.Mutex
	open    map[*conn]struct{}
	unknown int // how many of open are strangers'
	freed   chan struct{}
	said    time.Time // when a shortage was logged
}

// NewConnections makes room for most connections, and for fewer of strangers.
func NewConnections(most int, log *slog.Logger) *Connections {
	const mostStrangers = 1024 // about 20 MiB
	return &Connections{
		most: most, strangers: min((most+1)/2, mostStrangers), idle: strangerIdle, log: log,
		open: map[*conn]struct{}{}, freed: make(chan struct{}),
	}
}

// Listener is l with connections that are counted here, and that a Server can send
// small answers over in one write: a write is most of what a warm manifest costs, and
// each wakes the client. They are TCP's; others are passed on as they are.
func (s *Connections) Listener(l net.Listener) net.Listener {
	return &listener{Listener: l, all: s, closed: make(chan struct{})}
}

// Attend has s tell when a connection is busy, for a server whose own handler does
// not. Whoever got as far as the handler has proven who he is.
func (s *Connections) Attend(server *http.Server) {
	next := server.Handler
	server.ConnContext = withConn
	server.Handler = attended(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guestOf(r.Context()).proven()
		next.ServeHTTP(w, r)
	}))
}

// attended is next, with the connection marked as busy meanwhile.
func attended(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := guestOf(r.Context())
		c.begin()
		defer c.end()
		next.ServeHTTP(w, r)
	})
}

// admit waits for a place for c. The listener's end ends the waiting: who was accepted
// is answered.
func (s *Connections) admit(c *conn, closed <-chan struct{}) {
	for {
		freed, ok := s.tryAdmit(c)
		if ok {
			return
		}
		timer := time.NewTimer(yieldTick)
		select {
		case <-freed:
		case <-timer.C:
		case <-closed:
			s.mu.Lock()
			s.add(c)
			s.mu.Unlock()
			return
		}
		timer.Stop()
	}
}

// tryAdmit gives c a place, if need be that of another one.
func (s *Connections) tryAdmit(c *conn) (freed <-chan struct{}, ok bool) {
	s.mu.Lock()
	full, crowded := len(s.open) >= s.most, s.unknown >= s.strangers
	var yields *conn
	if full || crowded {
		yields = s.idlest(crowded)
		s.complain()
	}
	if yields != nil {
		s.remove(yields)
	}
	if ok = yields != nil || !full && !crowded; ok {
		s.add(c)
	}
	freed = s.freed
	s.mu.Unlock()
	if yields != nil {
		_ = yields.TCPConn.Close() // nobody asked for anything on it
	}
	return freed, ok
}

// idlest is the connection that gives way: a stranger's, or, unless only those may,
// another one that has no request. Caller holds mu.
func (s *Connections) idlest(strangersOnly bool) (idlest *conn) {
	latest := time.Now().Add(-yieldAfter).UnixNano()
	for c := range s.open {
		since, known := c.idleSince.Load(), c.known.Load()
		if c.active.Load() > 0 || since > latest || known && strangersOnly {
			continue
		}
		if idlest == nil || idlest.known.Load() && !known || idlest.known.Load() == known && since < idlest.idleSince.Load() {
			idlest = c
		}
	}
	return idlest
}

// add counts c. Caller holds mu.
func (s *Connections) add(c *conn) {
	s.open[c] = struct{}{}
	s.unknown++
}

// remove counts c no more. Caller holds mu.
func (s *Connections) remove(c *conn) {
	if _, there := s.open[c]; !there {
		return
	}
	delete(s.open, c)
	if !c.known.Load() {
		s.unknown--
	}
	s.tell()
}

// tell wakes those that wait for a place. Caller holds mu.
func (s *Connections) tell() {
	close(s.freed)
	s.freed = make(chan struct{})
}

// complain logs a shortage now and then. Caller holds mu.
func (s *Connections) complain() {
	if now := time.Now(); now.Sub(s.said) >= shortageSaid {
		s.said = now
		s.log.Warn("there are too many connections: idle ones are closed, and new ones may wait: find out which program opens them, or let berth open more files (LimitNOFILE= or ulimit -n)",
			"open", len(s.open), "strangers", s.unknown)
	}
}

// short says that places are scarce, so that strangers should not stay.
func (s *Connections) short() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return 2*s.unknown > s.strangers || 4*len(s.open) > 3*s.most
}

type listener struct {
	net.Listener

	all    *Connections
	once   sync.Once
	closed chan struct{}
}

// Accept gives the next connection, when there is a place for it.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	t, ok := c.(*net.TCPConn)
	if !ok || err != nil {
		return c, err
	}
	own := &conn{TCPConn: t, all: l.all}
	own.idleSince.Store(time.Now().UnixNano())
	l.all.admit(own, l.closed)
	return own, nil
}

// Close also ends the waiting for a place.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// begin and end surround the answer to a request.
func (c *conn) begin() {
	if c != nil {
		c.active.Add(1)
	}
}

func (c *conn) end() {
	if c != nil {
		c.idleSince.Store(time.Now().UnixNano())
		c.active.Add(-1)
	}
}

// proven notes that whoever uses the connection has proven who he is.
func (c *conn) proven() {
	if c == nil || c.known.Load() {
		return
	}
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	if _, there := c.all.open[c]; there && !c.known.Load() {
		c.all.unknown--
		c.all.tell()
	}
	c.known.Store(true)
}

// unwelcome says that the connection should end with the answer to a stranger.
func (c *conn) unwelcome() bool { return c != nil && !c.known.Load() && c.all.short() }

// SetReadDeadline lets strangers wait for less than the server would.
func (c *conn) SetReadDeadline(t time.Time) error {
	if most := time.Now().Add(c.all.idle); t.After(most) && !c.known.Load() {
		t = most
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

// guestOf is the connection of a request, also below TLS, if it is a Listener's.
func guestOf(ctx context.Context) *conn {
	switch c := ctx.Value(connKey{}).(type) {
	case *conn:
		return c
	case *tls.Conn:
		below, _ := c.NetConn().(*conn)
		return below
	}
	return nil
}
