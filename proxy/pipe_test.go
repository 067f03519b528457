package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/auth/caller"
	"berth/internal/registry"
	"berth/oci"
)

// pipes is a listener without a network, so that synctest's clock runs a
// server through hours.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000} }

// inBubble runs test with a server and a connection to it.
func inBubble(t *testing.T, test func(t *testing.T, f *fake, conn net.Conn, log *logBuffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, log := newFake(t), &logBuffer{}
		logger := slog.New(slog.NewJSONHandler(log, nil))
		p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		server := Server(New(Options{
			Router:  testRouter(t),
			Sources: func(caller.Caller, *registry.Spec) (oci.Source, error) { return f, nil },
			Logger:  logger,
		}), logger)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := server.Serve(p); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
		ours, theirs := net.Pipe()
		p.conns <- theirs
		test(t, f, ours, log)
		_ = ours.Close()
		_ = server.Close()
		wg.Wait()
	})
}

func sendRequest(t *testing.T, conn net.Conn, path string) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

func readResponse(t *testing.T, conn net.Conn) answer {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

func TestHeaderTimeout(t *testing.T) {
	data := pattern(1000)
	for name, c := range map[string]struct {
		path  string
		thing *thing
		call  string
	}{
		"source":   {path: "/v2/nginx/manifests/1", call: "resolve"},
		"open":     {path: "/v2/nginx/blobs/" + string(oci.DigestOf(data)), call: "open"},
		"list":     {path: "/v2/nginx/tags/list", call: "list"},
		"body":     {path: "/v2/nginx/blobs/" + string(oci.DigestOf(data)), thing: &thing{data: data, wait: true}},
		"a stream": {path: "/v2/nginx/blobs/" + string(oci.DigestOf(data)), thing: &thing{data: data, wait: true, form: stream}},
		"manifest": {path: "/v2/nginx/manifests/" + string(oci.DigestOf(data)), thing: &thing{data: data, wait: true}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fake, conn net.Conn, log *logBuffer) {
				if c.thing != nil {
					f.put("library/nginx", oci.Blob, c.thing)
					f.put("library/nginx", oci.Manifest, c.thing)
				}
				f.before = func(ctx context.Context, call string) error {
					if call == c.call {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}
				start := time.Now()
				sendRequest(t, conn, c.path)
				a := readResponse(t, conn)
				a.refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "docker.io gave no answer in time")
				a.header(t, "Retry-After", "5")
				if took := time.Since(start); took != 20*time.Second {
					t.Errorf("answered after %v", took)
				}
				if line := log.lines(t)[0]; line["class"] != "timeout" || line["result"] != "failed" {
					t.Errorf("logged as %v", line)
				}
			})
		})
	}
}

// What Open gave just as the timer fired is not used: its context is gone.
func TestHeaderTimeoutAsOpenReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake, conn net.Conn, _ *logBuffer) {
		th := &thing{data: pattern(1000), inOpen: true}
		d := f.put("library/nginx", oci.Blob, th)
		f.before = func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return nil
		}
		sendRequest(t, conn, "/v2/nginx/blobs/"+string(d))
		a := readResponse(t, conn)
		a.refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "gave no answer in time")
	})
}

// A certain answer is not lost to the timer.
func TestHeaderTimeoutAsOpenFails(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake, conn net.Conn, _ *logBuffer) {
		f.before = func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return &oci.Error{Class: oci.Denied, Message: "not yours"}
		}
		sendRequest(t, conn, "/v2/nginx/manifests/1")
		a := readResponse(t, conn)
		a.refuses(t, http.StatusForbidden, oci.CodeDenied, "not yours")
	})
}

type pausing struct {
	fakeBody
	pause time.Duration
}

func (p *pausing) Read(b []byte) (int, error) {
	if p.pos > 0 {
		select {
		case <-time.After(p.pause):
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	return p.fakeBody.Read(b[:min(len(b), 100)])
}

// The timer is for the header alone: a body may pause for longer.
func TestBodiesHaveNoTimer(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake, conn net.Conn, _ *logBuffer) {
		data := pattern(300)
		d := f.put("library/nginx", oci.Blob, &thing{data: data})
		paused := &pausingSource{fake: f, pause: 5 * time.Minute}
		server := New(Options{
			Router:  testRouter(t),
			Sources: func(caller.Caller, *registry.Spec) (oci.Source, error) { return paused, nil },
		})
		ours, theirs := net.Pipe()
		p := &pipes{conns: make(chan net.Conn, 1), done: make(chan struct{})}
		p.conns <- theirs
		s := Server(server, nil)
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(p) })
		sendRequest(t, ours, "/v2/nginx/blobs/"+string(d))
		a := readResponse(t, ours)
		a.wants(t, http.StatusOK).sends(t, data)
		_ = ours.Close()
		_ = s.Close()
		wg.Wait()
	})
}

type pausingSource struct {
	*fake
	pause time.Duration
}

func (p *pausingSource) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	c, err := p.fake.Open(ctx, o, r)
	if err != nil {
		return nil, err
	}
	inner, ok := c.Body.(seekBody)
	if !ok {
		return nil, errors.New("another body")
	}
	c.Body = &pausing{fakeBody: fakeBody{f: inner.f, ctx: ctx, th: inner.th, end: inner.end}, pause: p.pause}
	return c, nil
}

// A client that takes nothing, or next to nothing, is left at its limit.
func TestStalledClient(t *testing.T) {
	for name, c := range map[string]struct {
		form  form
		every time.Duration // it takes a byte
	}{
		"takes nothing":                {seekable, 0},
		"takes nothing of a file":      {file, 0},
		"takes nothing of a stream":    {stream, 0},
		"a byte per second":            {seekable, time.Second},
		"a byte per second of a file":  {file, time.Second},
		"a byte per second of streams": {stream, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fake, conn net.Conn, log *logBuffer) {
				d := f.put("library/nginx", oci.Blob, &thing{data: pattern(1 << 20), form: c.form})
				start := time.Now()
				sendRequest(t, conn, "/v2/nginx/blobs/"+string(d))
				taken := 0
				for c.every > 0 {
					time.Sleep(c.every) // of the bubble's clock
					n, err := conn.Read(make([]byte, 1))
					taken += n
					if err != nil {
						break
					}
				}
				for len(log.lines(t)) == 0 && time.Since(start) < time.Hour {
					time.Sleep(time.Second)
				}
				if took := time.Since(start); took < 30*time.Second || took > 35*time.Second {
					t.Errorf("left after %v and %d bytes", took, taken)
				}
				if line := log.lines(t)[0]; line["class"] != "client_gone" || line["aborted"] != true {
					t.Errorf("logged as %v", line)
				}
			})
		})
	}
}

// A client that is slow but takes its share gets everything.
func TestSlowClient(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake, conn net.Conn, _ *logBuffer) {
		data := pattern(1 << 20)
		d := f.put("library/nginx", oci.Blob, &thing{data: data})
		start := time.Now()
		sendRequest(t, conn, "/v2/nginx/blobs/"+string(d))
		a := readResponse(t, slowConn{conn})
		a.wants(t, http.StatusOK).sends(t, data)
		if took := time.Since(start); took < 4*time.Minute {
			t.Errorf("it was not slow: %v", took)
		}
	})
}

type slowConn struct{ net.Conn }

func (c slowConn) Read(p []byte) (int, error) {
	time.Sleep(time.Second) // of the bubble's clock
	return c.Conn.Read(p[:min(len(p), 4096)])
}

// Clients that never finish their requests are not waited for.
func TestUnfinishedRequests(t *testing.T) {
	for name, c := range map[string]struct {
		sent  string
		limit time.Duration
	}{
		"nothing":        {"", readHeaderTimeout},
		"half a line":    {"GET /v2/", readHeaderTimeout},
		"half a header":  {"GET /v2/ HTTP/1.1\r\nHost: loc", readHeaderTimeout},
		"a missing body": {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", readTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *fake, conn net.Conn, _ *logBuffer) {
				start := time.Now()
				if _, err := io.WriteString(conn, c.sent); err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, conn)
				if took := time.Since(start); took > c.limit+time.Second {
					t.Errorf("waited for %v", took)
				}
			})
		})
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *fake, conn net.Conn, _ *logBuffer) {
		sendRequest(t, conn, "/v2/")
		start := time.Now()
		_, _ = io.Copy(io.Discard, conn)
		if took := time.Since(start); took != idleTimeout {
			t.Errorf("closed after %v", took)
		}
	})
}
