package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// What net/http says on the standard log comes to ours, without what the
// registry wrote. (The standard log is the process's, so this is one of its own.)
func TestStandardLog(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 canary-unasked\r\n")
		}
	}()
	h.endpoint("ghcr.io", "http://"+l.Addr().String())
	n := h.run()
	h.client(n.doors[openDoor]).get("/v2/" + app + "/manifests/1")
	n.await("net/http complains", func() bool {
		for _, line := range n.log.Lines() {
			if line["msg"] == "Unsolicited response received on idle HTTP channel" && line["level"] == "WARN" {
				return true
			}
		}
		return false
	})
	if strings.Contains(n.log.String(), "canary") {
		t.Error("the log quotes a foreign server")
	}
}
