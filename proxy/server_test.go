package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"berth/oci"
)

func (s *site) dial() net.Conn {
	s.t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(s.t.Context(), "tcp", s.server.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// recorded keeps what a connection was sent.
type recorded struct {
	net.Conn
	got []byte
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.got = append(r.got, p[:n]...)
	return n, err
}

// Clients try TLS first, and go on with HTTP when the reply begins like it.
func TestClientHelloOnThePlainPort(t *testing.T) {
	s := newSite(t, nil)
	for name, config := range map[string]*tls.Config{
		"new":     {ServerName: "localhost", NextProtos: []string{"h2", "http/1.1"}},
		"old":     {ServerName: "localhost", MaxVersion: tls.VersionTLS12},
		"no name": {InsecureSkipVerify: true},
	} {
		conn := &recorded{Conn: s.dial()}
		err := tls.Client(conn, config).HandshakeContext(t.Context())
		if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok {
			t.Errorf("%s: the handshake ended with: %v", name, err)
		}
		if !strings.HasPrefix(string(conn.got), "HTTP/1.") {
			t.Errorf("%s: the reply begins with %q", name, conn.got)
		}
		_ = conn.Close()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(s.server.URL, "http:", "https:", 1)+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("a Go client sees: %v", err)
	}
	s.server.Close()
	if log := s.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
	if got := s.value("berth_requests_total") + s.value("berth_pull_failures_total"); got != 0 {
		t.Errorf("%v counted", got)
	}
}

func TestHTTPOnTheTLSPortIsNotWorthAWarning(t *testing.T) {
	log := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	server := Server(http.NotFoundHandler(), logger)
	server.ErrorLog.Printf("http: TLS handshake error from %s: %v", "127.0.0.1:1", io.EOF)
	if log.String() != "" {
		t.Errorf("logged: %s", log)
	}
	server.ErrorLog.Printf("http: Accept error: %v", "too many open files")
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "too many open files") {
		t.Errorf("logged: %s", log)
	}
}

func TestLongHeaders(t *testing.T) {
	s := newSite(t, nil)
	s.get("/v2/", "X-Long", strings.Repeat("x", 60<<10)).wants(t, http.StatusOK)
	s.get("/v2/", "X-Long", strings.Repeat("x", 80<<10)).wants(t, http.StatusRequestHeaderFieldsTooLarge)
}

func TestOptionsOfTheServer(t *testing.T) {
	s := newSite(t, nil)
	conn := s.dial()
	defer conn.Close()
	if _, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	answer{resp, body, err}.refuses(t, http.StatusNotFound, oci.CodeUnsupported, "answers image pulls, below /v2/")
}

func TestLive(t *testing.T) {
	live := &Live{}
	s := newSite(t, nil)
	s.server.Config.Handler = live
	s.get("/v2/").wants(t, http.StatusServiceUnavailable)
	live.Set(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	s.get("/v2/").wants(t, http.StatusTeapot)
	live.Set(New(Options{Router: testRouter(t)}))
	s.get("/v2/").wants(t, http.StatusOK)
}

// Whatever comes in, what goes out is defined.
func TestRandomRequests(t *testing.T) {
	s := tokenSite(t, nil)
	withManifest(s, manifestThing())
	blob := withBlob(s, &thing{data: pattern(5000)})
	s.fake.page = &oci.Page{Body: []byte(`{}`)}
	var calls atomic.Int64
	s.fake.before = func(_ context.Context, call string) error {
		if n := int(calls.Add(1)); n%4 == 0 {
			return &oci.Error{Class: oci.Classes()[n/4%len(oci.Classes())], Message: call}
		}
		return nil
	}
	const total, workers = 10_000, 4
	var wg sync.WaitGroup
	var answered atomic.Int64
	for worker := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(worker)))
			for range total / workers {
				if s.sendRaw(rawRequest(random, blob)) {
					answered.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := answered.Load(); n < total*95/100 {
		t.Errorf("only %d of %d were answered", n, total)
	}
	s.server.Close()
	if log := s.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "superfluous") || strings.Contains(log, "level=WARN") {
		t.Errorf("the log has: %.2000s", log)
	}
	if n := len(s.log.lines(t)); n < total/4 {
		t.Errorf("only %d of %d were requests at all", n, total)
	}
}

func pick(random *rand.Rand, from ...string) string { return from[random.IntN(len(from))] }

func rawRequest(random *rand.Rand, blob string) string {
	switch random.IntN(8) {
	case 0:
		return string(rubbish(random, 1+random.IntN(200))) + "\r\n\r\n"
	case 1:
		return "GET /" + string(rubbish(random, random.IntN(100))) + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
	}
	path := pick(random, "/v2/", "/v2", "/", "/ghcr.io/v2/", "/q.example/v2/a/manifests/1", "/v2/nginx/manifests/1", blob, blob, "/v2/nginx/tags/list",
		"/v2/docker.io/library/nginx/manifests/1", "/v2/acme/docker.io/nginx/manifests/1", "/v2/globex/ghcr.io/a/tags/list", "/v2/nginx/referrers/sha256:"+strings.Repeat("a", 64),
		"*", "http://evil.example/v2/", "//v2//", "/v2/%2e%2e/manifests/1", "/v2/a/b/c/d/manifests/"+strings.Repeat("z", random.IntN(300)))
	path += pick(random, "", "", "", "?ns=docker.io", "?ns=q.example", "?ns=docker.io&ns=ghcr.io", "?n=1&last=%", "?a;b", "?"+strings.Repeat("q", 5000))
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", pick(random, "GET", "GET", "GET", "GET", "HEAD", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "\x00"), path,
		pick(random, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
	b.WriteString(pick(random, "Host: localhost\r\n", "Host: localhost\r\n", "Host: localhost\r\n", "Host: 127.0.0.1:5000\r\n", "Host: evil.example\r\n", "Host: [::1\r\n", "", "Host: a\r\nHost: b\r\n"))
	for range random.IntN(4) {
		b.WriteString(pick(random,
			"Authorization: Basic YWNtZTphY21lLWNhbmFyeS1zZWNyZXQ=\r\n", "Authorization: Basic YWNtZTphY21lLWNhbmFyeS1zZWNyZXQ=\r\n",
			"Authorization: Basic eDp4\r\n", "Authorization: \xff\r\n", "Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n",
			"Range: bytes=0-0\r\n", "Range: bytes=4000-,1-2\r\n", "Range: bytes=-5\r\n", "Range: bytes=9999-\r\n", "Range: bytes="+strings.Repeat("1-2,", 3000)+"\r\n",
			"If-None-Match: *\r\n", "If-Match: \"x\"\r\n", "If-Range: \"x\"\r\n", "Content-Length: 5\r\n", "Content-Length: -5\r\n", "Transfer-Encoding: chunked\r\n",
			"Transfer-Encoding: gzip\r\n", "Expect: 100-continue\r\n", "Expect: x\r\n", "X-"+string(rubbish(random, 20))+"\r\n", "Upgrade: h2c\r\n", "Connection: Upgrade\r\n"))
	}
	b.WriteString("\r\n")
	return b.String()
}

func rubbish(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// defined are all the statuses that there are.
var defined = map[int]bool{
	200: true, 206: true, 304: true, 400: true, 401: true, 403: true, 404: true, 405: true, 412: true, 416: true, 417: true, 429: true, 431: true, 503: true,
	501: true, 505: true, // net/http's, for transfer codings and versions
}

// sendRaw sends raw and says whether there was an answer. The sending side stays open, since
// closing it would look like leaving, until an answer is there.
func (s *site) sendRaw(raw string) bool {
	var d net.Dialer
	conn, err := d.DialContext(s.t.Context(), "tcp", s.server.Listener.Addr().String())
	if err != nil {
		s.t.Error(err)
		return false
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		return false // refused before it was read
	}
	method, _, _ := strings.Cut(raw, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return false // refused with a reset: what it said got lost
	}
	defer resp.Body.Close()
	if !defined[resp.StatusCode] {
		s.t.Errorf("%.300q was answered with %d", raw, resp.StatusCode)
	}
	return true
}
