package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// TestWriteWhole: a body that is sent together with its header arrives whole, and
// the connection is not left waiting for more.
func TestWriteWhole(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789"), 1000)
	corked := make(chan int, 1)
	s := Server(http.HandlerFunc(func(under http.ResponseWriter, r *http.Request) {
		w := &writer{under: under, control: *http.NewResponseController(under), stall: time.Minute, tcp: tcpOf(r.Context())}
		if w.tcp == nil {
			t.Error("the connection was not found")
			return
		}
		under.Header().Set("Content-Length", "10000")
		if err := w.writeWhole(body); err != nil {
			t.Error(err)
		}
		corked <- option(t, w.tcp)
	}), nil)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range 3 { // on one connection
		a, err := client.Get("http://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Body)
		if err := a.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if on := <-corked; on != 0 {
			t.Error("the connection is still corked")
		}
	}
}

func option(t *testing.T, c *net.TCPConn) (on int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return 0
	}
	if err := raw.Control(func(fd uintptr) {
		on, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK)
	}); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Error(err)
	}
	return on
}
