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

	"berth/oci"
)

// pier is a server whose callers prove themselves by a header, or are guests by one, with
// few connections.
type pier struct {
	t       *testing.T
	all     *Connections
	l       net.Listener
	release chan struct{} // ends a request to /wait
	waiting chan struct{}
	said    chan string // what the log gets
}

// newPier has places for as many strangers and as many others.
func newPier(t *testing.T, strangers, most int, change ...func(*Connections)) *pier {
	t.Helper()
	p := &pier{t: t, release: make(chan struct{}), waiting: make(chan struct{}, 100), said: make(chan string, 100)}
	p.all = NewConnections(0, 0, slog.New(slog.NewTextHandler(p, nil)))
	p.all.mostStrangers, p.all.most, p.all.idle = strangers, most, time.Minute
	for _, c := range change {
		c(p.all)
	}
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
	c := peerOf(r.Context())
	as := map[string]trust{"guest": guest, "known": known}[r.Header.Get("As")]
	if as == stranger {
		if c.shouldEnd(http.StatusUnauthorized) {
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if err := c.letIn(r.Context(), as); err != nil {
		w.WriteHeader(oci.AsError(err).HTTPStatus())
		return
	}
	switch r.URL.Path {
	case "/wait":
		p.waiting <- struct{}{}
		<-p.release
	case "/much": // more than a connection takes that nobody reads
		p.waiting <- struct{}{}
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 64<<20)) // whoever asked may be gone
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

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
	return p.peer(c)
}

func (p *pier) peer(c net.Conn) *peer {
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // a TCP connection has deadlines
	return &peer{Conn: c, t: p.t, reader: bufio.NewReader(c)}
}

// ask sends a request; as is empty, guest or known.
func (c *peer) ask(path, as string) {
	c.t.Helper()
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nAs: %s\r\n\r\n", path, as) // the answer tells
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

// get asks, and wants 200.
func (c *peer) get(as string) {
	c.t.Helper()
	c.ask("/", as)
	c.want(http.StatusOK)
}

// wantEnd waits until the server ends the connection.
func (c *peer) wantEnd() {
	c.t.Helper()
	if n, err := io.Copy(io.Discard, c.reader); n != 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Errorf("it goes on: %d bytes, %v", n, err)
	}
}

// One stranger more than there are places takes that of the one that has been silent for
// longest, whatever it did, and takes nothing from those who are inside.
func TestConnections_StrangersGiveWayToEachOther(t *testing.T) {
	for name, idle := range map[string]func(c *peer){
		"silent":      func(*peer) {},
		"in a header": func(c *peer) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: ") }, // it may be over
	} {
		t.Run(name, func(t *testing.T) {
			p := newPier(t, 3, 3)
			known, visitor := p.dial(), p.dial()
			known.get("known")
			visitor.get("guest")
			var strangers []*peer
			for range 9 {
				c := p.dial()
				strangers = append(strangers, c)
				idle(c)
			}
			for _, c := range strangers[:6] {
				c.wantEnd()
			}
			p.dial().get("known")
			known.get("known")
			visitor.get("guest")
			p.awaitShortage()
		})
	}
}

// Whoever is told to log in where places are scarce has to come again; where they are
// not, the connection goes on.
func TestConnections_A401EndsWhereShort(t *testing.T) {
	p := newPier(t, 4, 4)
	for i, stays := range []bool{true, true, false, false} {
		c := p.dial()
		c.ask("/", "")
		if status, got := c.answer(); status != http.StatusUnauthorized || got != stays {
			t.Errorf("stranger %d: %d, goes on %v", i, status, got)
		}
	}
}

// So does whoever is told to come again later.
func TestConnections_A503EndsWhereShort(t *testing.T) {
	c := &conn{all: NewConnections(8, 0, slog.New(slog.DiscardHandler))}
	c.trust.Store(int32(known))
	if c.shouldEnd(http.StatusServiceUnavailable) {
		t.Error("where there is room")
	}
	for range c.all.most {
		c.all.inside[&conn{}] = struct{}{}
	}
	if !c.shouldEnd(http.StatusServiceUnavailable) || c.shouldEnd(http.StatusNotFound) {
		t.Error("where there is none")
	}
}

// Of those inside, the one that is idle for longest gives way, never one that is being
// answered: a request waits until there is a place.
func TestConnections_BusyOnesStay(t *testing.T) {
	p := newPier(t, 4, 2)
	idle, busy := p.dial(), p.dial()
	idle.get("known")
	busy.ask("/wait", "known")
	<-p.waiting
	second := p.dial()
	second.ask("/wait", "known")
	idle.wantEnd()
	<-p.waiting
	third := p.dial()
	third.ask("/", "known")
	p.awaitShortage()
	close(p.release)
	busy.want(http.StatusOK)
	second.want(http.StatusOK)
	third.want(http.StatusOK)
}

// Where every place stays busy, a request is told to come again; and those that wait
// leave room for others to ask from, who are told at once.
func TestConnections_AllBusy(t *testing.T) {
	for name, change := range map[string]func(*Connections){
		"after a while":       func(c *Connections) { c.wait = 20 * time.Millisecond },
		"where too many wait": func(c *Connections) { c.wait, c.waiting = time.Minute, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPier(t, 4, 1, change)
			busy := p.dial()
			busy.ask("/wait", "guest")
			<-p.waiting
			for range 3 {
				c := p.dial()
				c.ask("/", "known")
				c.want(http.StatusServiceUnavailable)
			}
			close(p.release)
			busy.want(http.StatusOK)
		})
	}
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

// A stranger's connection ends soon after its last request, another's does not, also
// not that of a guest.
func TestConnections_StrangersIdleForLess(t *testing.T) {
	p := newPier(t, 100, 100, func(c *Connections) { c.idle = 20 * time.Millisecond })
	known, visitor, asked, silent := p.dial(), p.dial(), p.dial(), p.dial()
	known.get("known")
	visitor.get("guest")
	asked.ask("/", "")
	asked.want(http.StatusUnauthorized)
	asked.wantEnd()
	silent.wantEnd()
	known.get("known")
	visitor.get("guest")
}

// Where all places are taken, a guest gives way before anybody who has proven himself,
// however long that one has been idle.
func TestConnections_GuestsGiveWayFirst(t *testing.T) {
	p := newPier(t, 4, 4)
	var known []*peer
	for range 3 {
		c := p.dial()
		known = append(known, c)
		c.get("known")
	}
	visitor := p.dial()
	visitor.get("guest")
	p.dial().get("known")
	visitor.wantEnd()
	for _, c := range known {
		c.get("known")
	}
}

// The node reaches itself while all places are held, those of strangers by requests that
// wait: nobody else does, nor does anybody wait for long to hear so.
func TestConnections_TheNodeItself(t *testing.T) {
	p := newPier(t, 2, 1)
	busy := p.dial()
	busy.ask("/wait", "guest")
	<-p.waiting
	var waits []*peer
	for range 2 {
		p.all.mu.Lock()
		p.all.waiting = 0 // so that both may
		p.all.mu.Unlock()
		c := p.dial()
		c.ask("/", "guest")
		waits = append(waits, c)
		p.awaitStrangers(len(waits))
	}
	p.dial().wantEnd()
	own, err := p.all.Dial(t.Context(), p.l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	itself := p.peer(own)
	itself.ask("/", "") // it is no stranger, but has shown nothing either
	itself.want(http.StatusUnauthorized)
	p.dial().wantEnd()
	close(p.release)
	for _, c := range append(waits, busy) {
		c.want(http.StatusOK)
	}
	if err := own.Close(); err != nil || len(p.all.own) > 0 {
		t.Errorf("%d addresses are known: %v", len(p.all.own), err)
	}
}

// awaitStrangers waits until so many are being answered.
func (p *pier) awaitStrangers(n int) {
	p.t.Helper()
	for range 10_000 {
		busy := 0
		p.all.mu.Lock()
		for c := range p.all.strangers {
			busy += int(c.active.Load())
		}
		p.all.mu.Unlock()
		if busy == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	p.t.Fatal("they do not come")
}

// Where an answer is quick, whoever takes long to read it gives way to others.
func TestConnections_StalledReadersGiveWay(t *testing.T) {
	p := newPier(t, 4, 1, func(c *Connections) { c.stall = time.Millisecond })
	reader := p.dial()
	reader.ask("/much", "known")
	<-p.waiting
	p.dial().get("known")
}

// A connection is known below TLS too.
func TestConnections_TLS(t *testing.T) {
	all := NewConnections(10, 0, slog.New(slog.DiscardHandler))
	server := httptest.NewUnstartedServer(nil)
	server.Config = Server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c := peerOf(r.Context())
		if c == nil || c.active.Load() != 1 {
			t.Errorf("the connection is %v", c)
		}
		if err := c.letIn(r.Context(), known); err != nil {
			t.Error(err)
		}
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
	if len(all.inside) != 1 || len(all.strangers) != 0 {
		t.Errorf("%d are inside, %d strangers", len(all.inside), len(all.strangers))
	}
}

// Places are given back, whoever ends a connection.
func TestConnections_Balance(t *testing.T) {
	p := newPier(t, 5, 5)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 50 {
		c := p.dial()
		c.ask("/", []string{"", "guest", "known"}[i%3])
		if status, _ := c.answer(); status == 0 {
			t.Fatalf("connection %d has no answer", i)
		}
		_ = c.Close() // it is over
	}
	for {
		p.all.mu.Lock()
		open, freed := len(p.all.strangers)+len(p.all.inside), p.all.freed
		p.all.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-freed:
		case <-time.After(time.Millisecond): // strangers' ends are told to nobody
		case <-ctx.Done():
			t.Fatalf("%d are open", open)
		}
	}
}
