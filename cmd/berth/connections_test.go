package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// strangers opens n connections to address, does what each does first, and keeps them
// until the test ends.
func strangers(t *testing.T, address string, n int, first string) {
	t.Helper()
	for range n {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(address, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience)) // a TCP connection has deadlines
		_, _ = io.WriteString(c, first)             // it may be closed already
	}
}

// Programs of the node without a token open more connections than this process may
// have files, to pulls and to the operators' address, and keep them: pulls, /readyz and
// the watchdog go on.
func TestConnections_IdleStrangers(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]string{
		"after a 401": "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"silent":      "",
		"in a header": "GET /v2/ HTTP/1.1\r\nHost: ",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			k := &keeper{home: s.home, notices: newNotices(t), limits: "ulimit -n 256; "}
			n := k.startOn(s.path("berth.yaml"), "WATCHDOG_USEC=3000000")
			n.awaitAddresses(2)
			known := s.caller(n, "acme")
			dials := 0 // its one connection stays its own
			known.http = &http.Client{Timeout: patience, Transport: &http.Transport{
				MaxConnsPerHost: 1,
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					dials++
					return new(net.Dialer).DialContext(ctx, network, address)
				},
			}}
			t.Cleanup(known.http.CloseIdleConnections)
			if a := known.get("/v2/"); a.status != http.StatusOK {
				t.Fatal(a)
			}
			strangers(t, n.doors[tokenDoor], 300, first)
			strangers(t, n.admin, 300, first)
			var pulls sync.WaitGroup
			for range 8 {
				c := s.caller(n, "acme")
				transport := &http.Transport{DisableCompression: true}
				t.Cleanup(transport.CloseIdleConnections)
				c.http = &http.Client{Transport: transport, Timeout: patience}
				pulls.Go(func() {
					if a := c.get(manifest); a.status != http.StatusOK {
						t.Errorf("a pull on a new connection: %s", a)
					}
				})
			}
			pulls.Wait()
			if a := known.get(manifest); a.status != http.StatusOK {
				t.Errorf("on the connection of before: %s", a)
			}
			if dials != 1 {
				t.Errorf("whoever has proven himself lost %d connections", dials-1)
			}
			if a := s.client(n.admin).get("/readyz"); a.status != http.StatusOK {
				t.Errorf("readiness: %s", a)
			}
			n.metrics()
			k.notices.forget()
			k.notices.await(t, "WATCHDOG=1")
			if n.said("ERROR", "pulls are not answered") > 0 || strings.Contains(n.log.String(), "too many open files") {
				t.Errorf("the descriptors ran out:\n%s", n.troubles())
			}
			if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.process.Pid)); err != nil || len(open) > 200 {
				t.Errorf("%d descriptors are open: %v", len(open), err)
			}
		})
	}
}

// Whoever may pull holds as many answers as he can get, and reads none of them: callers
// without an organisation at an open listener, or one organisation. Others pull, and the
// node knows that it is well.
func TestConnections_BusyReaders(t *testing.T) {
	t.Parallel()
	for name, greedy := range map[string]struct {
		door int
		user string
	}{
		"nobody":           {openDoor, ""},
		"one organisation": {tokenDoor, "acme"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			hub := ocitest.New(t, ocitest.Options{})
			image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{64 << 20}})
			h.registry("docker.io", hub)
			h.tenant("acme")
			h.tenant("globex")
			k := &keeper{home: h, notices: newNotices(t), limits: "ulimit -n 256; "}
			n := k.startOn(h.config(), "WATCHDOG_USEC=3000000")
			n.awaitAddresses(2)
			h.as(n, "globex").mustPull("docker.io/library/app", image, "")
			first := "GET /v2/docker.io/library/app/blobs/" + string(image.Platforms[0].Layers[0]) + " HTTP/1.1\r\nHost: localhost\r\n"
			if greedy.user != "" {
				c := h.as(n, greedy.user)
				first += "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password)) + "\r\n"
			}
			strangers(t, n.doors[greedy.door], 300, first+"\r\n")
			for range 3 {
				c := h.as(n, "globex")
				c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
				if a := c.get("/v2/docker.io/library/app/manifests/" + string(image.Digest)); a.status != http.StatusOK {
					t.Errorf("another's pull: %s", a)
				}
			}
			if a := h.client(n.admin).get("/readyz"); a.status != http.StatusOK {
				t.Errorf("readiness: %s", a)
			}
			k.notices.forget()
			k.notices.await(t, "WATCHDOG=1")
			if n.said("ERROR", "pulls are not answered") > 0 || strings.Contains(n.log.String(), "too many open files") {
				t.Errorf("the descriptors ran out:\n%s", n.troubles())
			}
		})
	}
}

// Peers of the operators' address ask for metrics and read none: what they hold goes to
// whoever comes.
func TestConnections_BusyOperators(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var more strings.Builder
	for i := range 300 { // many series: more than a connection takes that nobody reads
		fmt.Fprintf(&more, "  r%d.example: {endpoint: \"https://r%d.example\"}\n", i, i)
	}
	s.save(strings.Replace(s.read("berth.yaml"), "cache:", more.String()+"cache:", 1))
	n := s.serve()
	for range 40 {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(n.admin, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.(*net.TCPConn).SetReadBuffer(4096) // it may be less
		_, _ = io.WriteString(c, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: identity\r\n\r\n", 100))
	}
	c := s.client(n.admin)
	c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for _, path := range []string{"/readyz", "/healthz"} {
		if a := c.get(path); a.status != http.StatusOK {
			t.Errorf("%s: %s", path, a)
		}
	}
	c.await("/metrics", http.StatusOK)
}
