package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gathers is a server whose answers are as long as the path says, sent by
// writeWhole, or a few words after a panic in the middle of it.
func gathers(t *testing.T, panics bool) (server *httptest.Server, conns chan *conn) {
	t.Helper()
	conns = make(chan *conn, 1)
	server = httptest.NewUnstartedServer(nil)
	server.Config = Server(http.HandlerFunc(func(under http.ResponseWriter, r *http.Request) {
		w := &response{under: under, control: *http.NewResponseController(under), stall: time.Minute, conn: peerOf(r.Context()), buffers: new(sync.Pool)}
		if w.conn == nil {
			t.Error("the connection was not found")
			return
		}
		conns <- w.conn
		size, _ := strconv.Atoi(r.URL.Path[1:])
		defer func() {
			if recover() != nil {
				_, _ = under.Write([]byte("something went wrong")) // the client says what came
			}
		}()
		body := bytes.Repeat([]byte{'x'}, size)
		under.Header().Set("Content-Length", strconv.Itoa(size))
		if panics {
			under.Header().Del("Content-Length")
			w.under = panicking{under}
		}
		if err := w.writeWhole(body); err != nil {
			t.Error(err)
		}
	}), nil)
	server.Listener = NewConnections(100, 0, slog.New(slog.DiscardHandler)).Listener(server.Listener)
	server.Start()
	t.Cleanup(server.Close)
	return server, conns
}

type panicking struct{ http.ResponseWriter }

func (panicking) WriteHeader(int) { panic("in the middle") }

// segments is how many segments with data have left on c.
func segments(t *testing.T, c *conn) (n uint32) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		info, infoErr := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if infoErr != nil {
			t.Error(infoErr)
			return
		}
		n = info.Data_segs_out
	}); err != nil {
		t.Error(err)
	}
	return n
}

// TestWriteWhole: a small answer leaves whole and at once, again and again on one
// connection; one that does not fit is whole too.
func TestWriteWhole(t *testing.T) {
	t.Parallel()
	server, conns := gathers(t, false)
	var before uint32
	for _, size := range []int{100, 3000, 10_000, 10_000, mostGathered, mostGathered + 1, 300_000, 5000} {
		a, err := server.Client().Get(server.URL + "/" + strconv.Itoa(size))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Body)
		_ = a.Body.Close() // it was read
		if err != nil || len(got) != size {
			t.Errorf("got %d of %d bytes, %v", len(got), size, err)
		}
		now := segments(t, <-conns)
		if size <= 10_000 && now-before != 1 {
			t.Errorf("%d bytes took %d segments", size, now-before)
		}
		before = now
	}
}

// After a panic the connection gathers no more: what is said then leaves.
func TestPanicWhileGathering(t *testing.T) {
	t.Parallel()
	server, _ := gathers(t, true)
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // else it waits for ever
	if _, err := io.WriteString(c, "GET /10000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Contains(got, []byte("something went wrong")) {
		t.Errorf("%q, %v", got, err)
	}
}
