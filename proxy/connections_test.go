package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// pier is a server whose callers prove themselves by a header, with few connections.
type pier struct {
	t       *testing.T
	all     *Connections
	l       net.Listener
	release chan struct{} // ends a request to /wait
	waiting chan struct{}
	said    chan string // what the log gets
}

func newPier(t *testing.T, most int, idle time.Duration) *pier {
	t.Helper()
	p := &pier{t: t, release: make(chan struct{}), waiting: make(chan struct{}, 100), said: make(chan string, 100)}
	p.all = NewConnections(most, slog.New(slog.NewTextHandler(p, nil)))
	p.all.idle = idle
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.l = p.all.Listener(l)
	server := Server(http.HandlerFunc(p.serve), nil)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(p.l) }) // until it is closed
	t.Cleanup(func() { _ = server.Close(); served.Wait() })
	return p
}

// Write is for the log.
func (p *pier) Write(line []byte) (int, error) {
	p.said <- string(line)
	return len(line), nil
}

func (p *pier) serve(w http.ResponseWriter, r *http.Request) {
	c := guestOf(r.Context())
	if r.Header.Get("Known") == "" {
		if c.unwelcome() {
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	c.proven()
	if r.URL.Path == "/wait" {
		p.waiting <- struct{}{}
		<-p.release
	}
}

// peer is one connection to a pier.
type peer struct {
	net.Conn

	t      *testing.T
	reader *bufio.Reader
}

func (p *pier) dial() *peer {
	p.t.Helper()
	c, err := new(net.Dialer).DialContext(p.t.Context(), "tcp", p.l.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // a TCP connection has deadlines
	return &peer{Conn: c, t: p.t, reader: bufio.NewReader(c)}
}

func (c *peer) ask(path string, known bool) {
	c.t.Helper()
	header := ""
	if known {
		header = "Known: yes\r\n"
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, header); err != nil {
		c.t.Error(err)
	}
}

// answer is the status, and whether the connection goes on. A connection that ended is 0.
func (c *peer) answer() (status int, stays bool) {
	c.t.Helper()
	a, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, false
	}
	_ = a.Body.Close() // there is none
	return a.StatusCode, !a.Close
}

func (c *peer) want(status int) {
	c.t.Helper()
	if got, _ := c.answer(); got != status {
		c.t.Errorf("the answer is %d, want %d", got, status)
	}
}

// wantEnd waits until the server ends the connection.
func (c *peer) wantEnd() {
	c.t.Helper()
	if n, err := io.Copy(io.Discard, c.reader); n != 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Errorf("it goes on: %d bytes, %v", n, err)
	}
}

// Strangers have half of the places, and one more takes that of the one that has been
// idle for longest, whatever it did: who has proven himself keeps his.
func TestConnections_StrangersGiveWayToEachOther(t *testing.T) {
	for name, idle := range map[string]func(c *peer){
		"silent":      func(*peer) {},
		"in a header": func(c *peer) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: ") }, // it may be over
	} {
		t.Run(name, func(t *testing.T) {
			p := newPier(t, 6, time.Minute)
			known := p.dial()
			known.ask("/", true)
			known.want(http.StatusOK)
			var strangers []*peer
			for range 9 {
				c := p.dial()
				strangers = append(strangers, c)
				idle(c)
			}
			for _, c := range strangers[:6] {
				c.wantEnd()
			}
			late := p.dial()
			late.ask("/", true)
			late.want(http.StatusOK)
			known.ask("/", true)
			known.want(http.StatusOK)
			p.awaitShortage()
		})
	}
}

// Whoever is told to log in where places are scarce has to come again; where they are
// not, the connection goes on.
func TestConnections_A401EndsWhereShort(t *testing.T) {
	p := newPier(t, 8, time.Minute)
	for i, stays := range []bool{true, true, false, false} {
		c := p.dial()
		c.ask("/", false)
		if status, got := c.answer(); status != http.StatusUnauthorized || got != stays {
			t.Errorf("stranger %d: %d, goes on %v", i, status, got)
		}
	}
}

// Where all have proven themselves, the one that is idle for longest gives way, never
// one that is being answered: a new one waits until there is a place.
func TestConnections_BusyOnesStay(t *testing.T) {
	p := newPier(t, 2, time.Minute)
	idle, busy := p.dial(), p.dial()
	idle.ask("/", true)
	idle.want(http.StatusOK)
	busy.ask("/wait", true)
	<-p.waiting
	second := p.dial()
	second.ask("/wait", true)
	idle.wantEnd()
	<-p.waiting
	third := p.dial()
	third.ask("/", true)
	p.awaitShortage()
	close(p.release)
	busy.want(http.StatusOK)
	second.want(http.StatusOK)
	third.want(http.StatusOK)
}

// awaitShortage waits until a shortage is logged, which it is once.
func (p *pier) awaitShortage() {
	p.t.Helper()
	select {
	case line := <-p.said:
		if !strings.Contains(line, "too many connections") {
			p.t.Error(line)
		}
	case <-time.After(30 * time.Second):
		p.t.Error("nothing is logged")
	}
}

// A stranger's connection ends soon after its last request, another's does not.
func TestConnections_StrangersIdleForLess(t *testing.T) {
	p := newPier(t, 100, 20*time.Millisecond)
	known, stranger, silent := p.dial(), p.dial(), p.dial()
	known.ask("/", true)
	known.want(http.StatusOK)
	stranger.ask("/", false)
	stranger.want(http.StatusUnauthorized)
	stranger.wantEnd()
	silent.wantEnd()
	known.ask("/", true)
	known.want(http.StatusOK)
}

// Where all places are taken, a stranger gives way before anybody who has proven
// himself, however long that one has been idle.
func TestConnections_StrangersGiveWayFirst(t *testing.T) {
	p := newPier(t, 4, time.Minute)
	var known []*peer
	for range 3 {
		c := p.dial()
		known = append(known, c)
		c.ask("/", true)
		c.want(http.StatusOK)
	}
	stranger, late := p.dial(), p.dial()
	late.ask("/", true)
	late.want(http.StatusOK)
	stranger.wantEnd()
	for _, c := range known {
		c.ask("/", true)
		c.want(http.StatusOK)
	}
}

// A connection is known below TLS too.
func TestConnections_TLS(t *testing.T) {
	all := NewConnections(10, slog.New(slog.DiscardHandler))
	server := httptest.NewUnstartedServer(nil)
	server.Config = Server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if c := guestOf(r.Context()); c == nil || c.active.Load() != 1 {
			t.Errorf("the connection is %v", c)
		}
		guestOf(r.Context()).proven()
	}), nil)
	server.Listener = all.Listener(server.Listener)
	server.StartTLS()
	defer server.Close()
	answer, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close() // there is none
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.open) != 1 || all.unknown != 0 {
		t.Errorf("%d are open, %d of strangers", len(all.open), all.unknown)
	}
}

// The listener's end ends the waiting for a place, and who has come is answered.
func TestConnections_ListenerEnds(t *testing.T) {
	p := newPier(t, 1, time.Minute)
	busy := p.dial()
	busy.ask("/wait", true)
	<-p.waiting
	late := p.dial()
	late.ask("/", true)
	p.awaitShortage()
	if err := p.l.Close(); err != nil {
		t.Error(err)
	}
	late.want(http.StatusOK)
	close(p.release)
	busy.want(http.StatusOK)
}

// Places are given back, whoever ends a connection.
func TestConnections_Balance(t *testing.T) {
	p := newPier(t, 10, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 50 {
		c := p.dial()
		c.ask("/", i%2 == 0)
		if status, _ := c.answer(); status == 0 {
			t.Fatalf("connection %d has no answer", i)
		}
		_ = c.Close() // it is over
	}
	for {
		p.all.mu.Lock()
		open, unknown, freed := len(p.all.open), p.all.unknown, p.all.freed
		p.all.mu.Unlock()
		if open == 0 && unknown == 0 {
			return
		}
		select {
		case <-freed:
		case <-ctx.Done():
			t.Fatalf("%d are open, %d of strangers", open, unknown)
		}
	}
}
