package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// frugal is how much memory a process may take, whatever is done to it. The race detector
// is in it.
const frugal = 128 << 20

// What clients write gets the error that the distribution specification has for
// it, and goes nowhere.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{}) // tells what there is, and what not
	h.registry("docker.io", hub)
	h.endpoint("reg.acme.com:5443", hub.URL())
	nginx := hub.AddImage("library/nginx", "1", ocitest.Image{Layers: []int64{3000}})
	n := h.serve()
	hex := nginx.Digest.Encoded()
	long := strings.Repeat("a", 300)
	type refusal struct {
		status int
		code   oci.Code
	}
	badName := refusal{http.StatusBadRequest, oci.CodeNameInvalid}
	badDigest := refusal{http.StatusBadRequest, oci.CodeDigestInvalid}
	badTag := refusal{http.StatusBadRequest, oci.CodeManifestInvalid}
	for path, want := range map[string]refusal{
		"/v2/nginx/blobs/latest":                                     badDigest,
		"/v2/nginx/blobs/sha256:" + hex[1:]:                          badDigest,
		"/v2/nginx/blobs/sha256:" + hex + "0":                        badDigest,
		"/v2/nginx/blobs/sha256:" + strings.ToUpper(hex):             badDigest,
		"/v2/nginx/blobs/SHA256:" + hex:                              badDigest,
		"/v2/nginx/blobs/sha256:" + strings.Repeat("g", 64):          badDigest,
		"/v2/nginx/blobs/sha512:" + hex:                              badDigest,
		"/v2/nginx/blobs/md5:d41d8cd98f00b204e9800998ecf8427e":       badDigest,
		"/v2/nginx/blobs/sha256:" + strings.Repeat("../", 20):        {http.StatusNotFound, oci.CodeUnsupported},
		"/v2/nginx/manifests/sha256:" + long:                         badDigest,
		"/v2/nginx/manifests/:" + hex:                                badDigest,
		"/v2/nginx/referrers/latest":                                 badDigest,
		"/v2/nginx/manifests/.hidden":                                badTag,
		"/v2/nginx/manifests/-option":                                badTag,
		"/v2/nginx/manifests/" + long:                                badTag,
		"/v2/nginx/manifests/a%20b":                                  badTag,
		"/v2/Nginx/manifests/1":                                      badName,
		"/v2/nginx/manifests/1%00":                                   badTag,
		"/v2/a//b/manifests/1":                                       badName,
		"/v2//nginx/manifests/1":                                     badName,
		"/v2/../nginx/manifests/1":                                   badName,
		"/v2/docker.io/../../etc/manifests/1":                        badName,
		"/v2/%6eginx/manifests/1":                                    badName,
		"/v2/nginx%00/manifests/1":                                   badName,
		"/v2/n\u00e4me/manifests/1":                                  badName,
		"/v2/reg.acme.com:5443/team/tool/manifests/1":                badName,
		"/v2/" + long + "/manifests/1":                               badName,
		"/v2/" + strings.Repeat("a", 247) + "/manifests/1":           {http.StatusNotFound, oci.CodeNameUnknown}, // and library/
		"/v2/" + strings.Repeat("a", 248) + "/manifests/1":           badName,
		"/v2/docker.io/" + strings.Repeat("a", 246) + "/manifests/1": badName,
		"/v2/nginx/manifests/1?ns=docker.io&ns=ghcr.io":              badName,
		"/v2/nginx/manifests/1?x=" + strings.Repeat("y", 5000):       {http.StatusBadRequest, oci.CodeUnsupported},
		"/v2/nginx/manifests/1?%zz":                                  {http.StatusBadRequest, oci.CodeUnsupported},
		"/v2/nginx/uploads/1":                                        {http.StatusNotFound, oci.CodeUnsupported},
		"/v2/_catalog":                                               {http.StatusNotFound, oci.CodeUnsupported},
		"/v1/repositories/nginx":                                     {http.StatusNotFound, oci.CodeUnsupported},
		"/":                                                          {http.StatusNotFound, oci.CodeUnsupported},
		"/metrics":                                                   {http.StatusNotFound, oci.CodeUnsupported},
		"/v2/docker.io/manifests/1":                                  {http.StatusForbidden, oci.CodeDenied},
		"/v2/nginx/manifests/no-such-tag":                            {http.StatusNotFound, oci.CodeManifestUnknown},
		"/v2/nginx/manifests/sha256:" + strings.Repeat("0", 64):      {http.StatusNotFound, oci.CodeManifestUnknown},
		"/v2/nginx/blobs/sha256:" + strings.Repeat("0", 64):          {http.StatusNotFound, oci.CodeBlobUnknown},
		"/v2/no/such/repo/tags/list":                                 {http.StatusNotFound, oci.CodeNameUnknown},
	} {
		h.nobody(n).mustRefuse(path, want.status, want.code)
	}
	if strings.Contains(n.log.String(), "panic") {
		t.Error("something panicked")
	}
}

// What comes over a socket need not be HTTP.
func TestBadConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.build()
	door := strings.TrimPrefix(n.doors[openDoor], "http://")
	flood := strings.Repeat("X-Flood: "+strings.Repeat("y", 200)+"\r\n", 5000) // a megabyte
	for what, c := range map[string]struct{ send, want string }{
		"a header flood":     {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + flood + "\r\n", "HTTP/1.1 431 "},
		"a long header":      {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n", "HTTP/1.1 431 "},
		"a long line":        {"GET /v2/" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 431 "},
		"many short headers": {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("a:\r\n", 100_000) + "\r\n", "HTTP/1.1 431 "},
		"noise":              {strings.Repeat("\x00\xff\n", 1000), "HTTP/1.1 400 "},
		"two hosts":          {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "HTTP/1.1 400 "},
		"no host":            {"GET /v2/ HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
		"a body that is never sent": {
			"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 ",
		},
		"many ranges": {
			"GET /v2/nginx/blobs/" + w.nginx.Platforms[0].Layers[0].String() + " HTTP/1.1\r\nHost: localhost\r\nRange: bytes=" + strings.Repeat("0-2999,", 5000) + "0-0\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 ",
		},
		"OPTIONS *": {"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 "},
		"CONNECT":   {"CONNECT docker.io:443 HTTP/1.1\r\nHost: docker.io:443\r\nConnection: close\r\n\r\n", "HTTP/1.1 403 "},
		"a proxy":   {"GET http://ghcr.io/v2/ HTTP/1.1\r\nHost: ghcr.io\r\nConnection: close\r\n\r\n", "HTTP/1.1 403 "},
		"HTTP/2":    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "},
	} {
		t.Run(what, func(t *testing.T) {
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if got := firstLine(t, door, c.send); !strings.HasPrefix(got, c.want) {
						t.Errorf("the answer begins %.200q, not %q", got, c.want)
					}
				})
			}
			all.Wait()
		})
	}
	w.nobody(n).mustPull("nginx", w.nginx, "")
	if peak := n.peakMemory(); peak >= frugal {
		t.Errorf("berth took %d MiB", peak>>20)
	}
}

// firstLine sends something and gives the first line of what comes back.
func firstLine(t *testing.T, address, send string) string {
	var d net.Dialer
	conn, err := d.DialContext(soon(t), "tcp", address)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience)) // a TCP connection has deadlines
	go io.WriteString(conn, send)              // the other side may not want all of it
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return line
}

// Clients that are not told otherwise try TLS first, also on a plain port. They
// get an answer in plain HTTP at once, by which they know, and nobody's log has
// a line about it.
func TestTLSOnThePlainPort(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	n := h.serve()
	before := n.log.String()
	_, err := h.client("https://"+strings.TrimPrefix(n.doors[openDoor], "http://")).send(soon(t), http.MethodGet, "/v2/")
	if err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		t.Errorf("the client is told %v", err)
	}
	h.nobody(n).get("/v2/")
	for line := range strings.Lines(strings.TrimPrefix(n.log.String(), before)) {
		if !strings.Contains(line, `"method":"GET"`) {
			t.Errorf("the log says %s", line)
		}
	}
}
