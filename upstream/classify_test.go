package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// What really goes wrong on the way, over real sockets.
func TestNetworkFaults(t *testing.T) {
	s := newStage(t)
	s.dns.set("absent.test") // NXDOMAIN
	ok := s.serve(t, true, manifestHandler, "registry.test")
	plain := s.serve(t, false, manifestHandler)
	expired := listenTLS(t, s.ca.issueUntil(t, time.Now().Add(-time.Hour), "registry.test"))
	oldTLS := listen(t, func(c net.Conn) {
		srv := tls.Server(c, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, Certificates: []tls.Certificate{s.ca.issue(t, "registry.test")}})
		_ = srv.HandshakeContext(t.Context())
	})
	hangup := listen(t, func(net.Conn) {})
	rubbish := listen(t, func(c net.Conn) {
		buf := make([]byte, 1024)
		_, _ = c.Read(buf)
		_, _ = io.WriteString(c, "220 mail.test ESMTP\r\n")
	})
	for name, test := range map[string]struct {
		scheme, host string
		trusted      bool
		class        oci.Class
		says         string
	}{
		"no such name":      {"https", "absent.test:443", true, oci.Unreachable, "does not exist in the DNS"},
		"nobody listens":    {"https", "registry.test:1", true, oci.Unreachable, "connection was refused"},
		"unknown authority": {"https", "registry.test:" + ok, false, oci.Unreachable, "ca_file"},
		"another name":      {"https", "other.test:" + ok, true, oci.Unreachable, "another name"},
		"expired":           {"https", "registry.test:" + expired, true, oci.Unreachable, "UTC (current time "},
		"TLS 1.1":           {"https", "registry.test:" + oldTLS, true, oci.Unreachable, "TLS handshake"},
		"not TLS":           {"https", "registry.test:" + plain, true, oci.Unreachable, "speaks https"},
		"hangs up":          {"http", "registry.test:" + hangup, true, oci.Unreachable, "broke the connection off"},
		"not HTTP":          {"http", "registry.test:" + rubbish, true, oci.UpstreamError, "cannot be understood"},
	} {
		o := Options{Name: "registry.test", Origin: oci.Origin{Scheme: test.scheme, Host: test.host}, Resolver: s.dns.resolver(), Before: withoutAuth}
		if test.trusted {
			o.CAs = s.ca.pool
		}
		r := newRegistry(t, o)
		r.pause = time.Millisecond
		_, err := r.As(as("acme", "alice", "secret")).Resolve(t.Context(), "acme/app", "v1")
		e := oci.AsError(err)
		if err == nil || e.Class != test.class || !strings.Contains(e.Message, test.says) {
			t.Errorf("%s: %s: %v; want %s, %q", name, e.Class, err, test.class, test.says)
			continue
		}
		for _, want := range []string{"organisation acme", `account "ci"`, "registry.test", "acme/app"} {
			if !strings.Contains(e.Message, want) {
				t.Errorf("%s: message %q lacks %q", name, e.Message, want)
			}
		}
	}
}

// listen accepts connections, hands them to f and closes them.
func listen(t *testing.T, f func(net.Conn)) (port string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func listenTLS(t *testing.T, cert tls.Certificate) (port string) {
	t.Helper()
	return listen(t, func(c net.Conn) {
		srv := tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}})
		_ = srv.HandshakeContext(t.Context())
	})
}

func TestClassOf(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, test := range []struct {
		err       error
		want      oci.Class
		permanent bool
	}{
		{dial(&refusal{why: "a private address"}), oci.Unreachable, true},
		{dial(&net.DNSError{IsNotFound: true}), oci.Unreachable, true},
		{dial(&net.DNSError{IsTimeout: true}), oci.Unreachable, false},
		{dial(os.ErrDeadlineExceeded), oci.Unreachable, false},
		{dial(syscall.ECONNREFUSED), oci.Unreachable, false},
		{dial(syscall.EHOSTUNREACH), oci.Unreachable, false},
		{errors.New("net/http: TLS handshake timeout"), oci.Unreachable, false},
		{&tls.CertificateVerificationError{Err: errors.New("x")}, oci.Unreachable, true},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, oci.Unreachable, true},
		{errReset, oci.Unreachable, false},
		{io.ErrUnexpectedEOF, oci.Unreachable, false},
		{os.ErrDeadlineExceeded, oci.Timeout, false},
		{fmt.Errorf("reading: %w", errNoHeader), oci.Timeout, false},
		{errStall, oci.Timeout, false},
		{errTooSlow, oci.Timeout, false},
		{context.DeadlineExceeded, oci.Timeout, false},
		{context.Canceled, oci.ClientGone, true},
		{&oci.Error{Class: oci.Denied}, oci.Denied, true},
		{errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"), oci.Unreachable, false},
		{errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1"), oci.Unreachable, false},
		{errors.New("http2: response header list larger than advertised limit"), oci.UpstreamError, true},
		{&targetFault{"cdn.test", errReset}, oci.Unreachable, false},
		{errors.New("malformed"), oci.UpstreamError, true},
	} {
		if got := classOf(test.err); got != test.want || permanent(test.err) != test.permanent {
			t.Errorf("%v: %s, permanent %v; want %s, %v", test.err, got, permanent(test.err), test.want, test.permanent)
		}
	}
}

// What a registry writes into a broken header stays out of the log: it may be a
// signed URL, or what we had sent.
func TestErrorsDoNotQuote(t *testing.T) {
	for name, answer := range map[string]string{
		"header":            "HTTP/1.1 200 OK\r\ncanary-77aa\r\n\r\n",
		"header, spaces":    "HTTP/1.1 200 OK\r\n x: canary-77aa\r\n\r\n",
		"status":            "HTTP/1.1 canary-77aa\r\n\r\n",
		"protocol":          "canary-77aa\r\n\r\n",
		"length":            "HTTP/1.1 200 OK\r\nContent-Length: canary-77aa\r\n\r\n",
		"two lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: canary-77aa\r\n\r\n",
		"transfer encoding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: canary-77aa\r\n\r\n",
		"chunk":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ncanary-77aa\r\n",
		"trailer":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\ncanary-77aa\r\n\r\n",
		"location":          "HTTP/1.1 307 Go\r\nLocation: https://h/\x01?canary-77aa\r\nContent-Length: 0\r\n\r\n",
		"content range":     "HTTP/1.1 206 OK\r\nContent-Range: bytes canary-77aa\r\nContent-Length: 0\r\n\r\n",
		"content encoding":  "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nDocker-Content-Digest: canary-77aa\r\nContent-Length: 2\r\n\r\n{}",
	} {
		port := listen(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, answer)
		})
		r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: "127.0.0.1:" + port}, Before: withoutAuth})
		r.pause = time.Millisecond
		src := r.As(Identity{})
		for way, ask := range ways(src, "acme/app", anObject.Digest, anObject.Digest) {
			if err := ask(t.Context()); err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("%s, %s: %v", name, way, err)
			}
		}
	}
}

// Statuses that no pull should get are trouble at the registry, never a denial.
func TestOddStatuses(t *testing.T) {
	for _, code := range []int{201, 202, 204, 205, 206, 300, 304, 305, 306, 418, 600, 999} {
		up := ocitest.New(t, ocitest.Options{})
		up.Inject(ocitest.Match{}, 0, ocitest.Status(code))
		for way, ask := range ways(over(t, up).As(Identity{}), "acme/app", anObject.Digest, anObject.Digest) {
			err := ask(t.Context())
			if oci.ClassOf(err) != oci.UpstreamError {
				t.Errorf("%d, %s: %v", code, way, err)
			}
		}
	}
}

// A web page in place of a blob proves nothing.
func TestLoginPages(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	up.Inject(ocitest.Match{}, 0, ocitest.Fault{Status: http.StatusOK, Body: []byte("<html>sign in</html>"), Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}})
	for way, ask := range ways(over(t, up).As(Identity{}), "acme/app", anObject.Digest, anObject.Digest) {
		if err := ask(t.Context()); oci.ClassOf(err) != oci.UpstreamError {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// registry.k8s.io redirects everything to the nearest registry, which is asked
// nothing about rights but does know what is not there. A storage that lacks
// what the registry has just vouched for is in trouble instead.
func TestMissingAtTheTarget(t *testing.T) {
	for body, want := range map[string]oci.Class{
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}`:     oci.NotFound,
		`{"errors":[{"code":"NAME_UNKNOWN"}]}`:                        oci.NotFound,
		`{"errors":[{"code":"DENIED"}]}`:                              oci.UpstreamError,
		`<Error><Code>NoSuchKey</Code></Error>`:                       oci.UpstreamError,
		`{"errors":[]}`:                                               oci.UpstreamError,
		`{"errors":"MANIFEST_UNKNOWN"}`:                               oci.UpstreamError,
		strings.Repeat("x", 100_000):                                  oci.UpstreamError,
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"canary"}]}`: oci.NotFound,
	} {
		up := ocitest.New(t, ocitest.Options{CDN: ocitest.CDNSame, ManifestRedirect: true})
		img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2048}})
		up.Inject(ocitest.Match{Server: ocitest.CDNServer}, 0, ocitest.Fault{Status: 404, Body: []byte(body)})
		for way, ask := range ways(over(t, up).As(Identity{Organisation: "acme"}), "acme/app", img.Digest, img.Platforms[0].Layers[0]) {
			if !strings.HasPrefix(way, "open") { // the registry itself answers the rest
				continue
			}
			e := classed(t, ask(t.Context()), want)
			if e.Code == oci.CodeNameUnknown || strings.Contains(e.Error(), "canary") {
				t.Errorf("%s, %.60s: %s %v", way, body, e.Code, e)
			}
		}
	}
}
