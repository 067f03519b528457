package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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

// The unit lets berth open as many files as its limit of connections needs.
func TestConnections_UnitFitsTheCap(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("../../systemd/berth.service")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^LimitNOFILE=(\d+)$`).FindSubmatch(unit)
	if line == nil {
		t.Fatal("the unit has no limit")
	}
	const most, each, own = 8192, 3, 64 // doc/operations.md
	if limit, err := strconv.Atoi(string(line[1])); err != nil || limit < most*each+own {
		t.Errorf("LimitNOFILE is %d, and %d are needed", limit, most*each+own)
	}
}
