package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"berth/oci"
)

// A body that fails must never look complete: the client has to see an
// unexpected end, whatever the framing.
func TestBodyFailsInTheMiddle(t *testing.T) {
	corrupt := &oci.Error{Class: oci.Corrupt, Message: "wrong digest"}
	for formName, change := range forms {
		if formName == "in memory" {
			continue
		}
		for name, c := range map[string]struct {
			header  string
			unknown bool
			fails   error // nil: ends early
			class   string
		}{
			"whole":                {"", false, corrupt, "corrupt"},
			"whole, cut":           {"", false, nil, "corrupt"},
			"range":                {"bytes=1000-", false, corrupt, "corrupt"},
			"range, cut":           {"bytes=1000-", false, nil, "corrupt"},
			"parts":                {"bytes=0-5,100000-", false, corrupt, "corrupt"},
			"parts, cut":           {"bytes=0-5,100000-", false, nil, "corrupt"},
			"unknown size":         {"", true, corrupt, "corrupt"},
			"unexpected EOF below": {"", true, io.ErrUnexpectedEOF, "corrupt"},
			"unnamed":              {"", false, errors.New("boom"), "upstream_error"},
		} {
			t.Run(formName+" "+name, func(t *testing.T) {
				s := newSite(t, nil)
				th := &thing{data: pattern(blobSize), failAt: 150_000, failWith: c.fails}
				change(th)
				th.unknown = c.unknown && th.form == stream
				a := s.get(withBlob(s, th), "Range", c.header)
				if a.StatusCode >= 300 {
					t.Fatalf("status %d", a.StatusCode)
				}
				if !errors.Is(a.err, io.ErrUnexpectedEOF) {
					t.Errorf("the client saw %d bytes and %v", len(a.body), a.err)
				}
				s.server.Close() // waits for the handler, and so for the log
				line := s.log.lines(t)[0]
				if line["class"] != c.class || line["aborted"] != true || line["result"] != "failed" {
					t.Errorf("logged as %v", line)
				}
				if got := s.value("berth_pull_failures_total", "reason", c.class, "registry", "docker.io", "organisation", "-"); got != 1 {
					t.Errorf("%v failures counted", got)
				}
				if got := s.value("berth_served_bytes_total"); got == 0 {
					t.Error("no bytes counted")
				}
			})
		}
	}
}

// The last byte stays here until a stream has ended where it must: what is
// complete by its Content-Length can't be called back.
func TestStreamFailsAtItsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		header string
		change func(*thing)
	}{
		"wrong at the end":       {"", func(th *thing) { th.failAt = blobSize }},
		"wrong, of a range":      {"bytes=5000-", func(th *thing) { th.failAt = blobSize }},
		"unexpected EOF":         {"", func(th *thing) { th.failAt, th.failWith = blobSize, io.ErrUnexpectedEOF }},
		"wrong, of unknown size": {"", func(th *thing) { th.failAt, th.unknown = blobSize, true }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{data: pattern(blobSize), form: stream, failWith: &oci.Error{Class: oci.Corrupt, Message: "wrong digest"}}
			c.change(th)
			a := s.get(withBlob(s, th), "Range", c.header)
			if !errors.Is(a.err, io.ErrUnexpectedEOF) {
				t.Errorf("the client saw %d bytes and %v", len(a.body), a.err)
			}
		})
	}
}

// A stream that ends before the range begins is no empty success.
func TestStreamEndsBeforeTheRange(t *testing.T) {
	s := newSite(t, nil)
	th := &thing{data: pattern(blobSize), form: stream, front: 100, failAt: 5}
	s.get(withBlob(s, th), "Range", "bytes=10-19").refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "cut short")
}

// TestResponse_CopyToEnd: the last byte leaves only if the source ends with it.
func TestResponse_CopyToEnd(t *testing.T) {
	for content, want := range map[string]string{"123": "123", "1234": "1234", "12345": "123"} {
		recorder := httptest.NewRecorder()
		w := &response{under: recorder, control: *http.NewResponseController(recorder), buffers: new(sync.Pool)}
		err := w.copyToEnd(strings.NewReader(content), 4)
		if got := recorder.Body.String(); got != want || (err == nil) != (content == "1234") {
			t.Errorf("%q of 4 bytes: %q, %v", content, got, err)
		}
	}
}

// Until the first byte is there, a failure is an answer and no cut.
func TestBodyFailsAtOnce(t *testing.T) {
	for name, change := range forms {
		if name == "in memory" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{data: pattern(blobSize), failAt: 10, failWith: &oci.Error{Class: oci.RateLimited, Message: "the limit is reached"}}
			change(th)
			a := s.get(withBlob(s, th), "Range", "bytes=10-")
			a.refuses(t, http.StatusTooManyRequests, oci.CodeTooManyRequests, "the limit is reached")
			a.header(t, "Content-Range", "").header(t, "Etag", "").header(t, "Docker-Content-Digest", "").header(t, "Retry-After", "60").header(t, "Accept-Ranges", "")
			if got := s.value("berth_served_bytes_total"); got != 0 {
				t.Errorf("an error document was counted as %v bytes of content", got)
			}
		})
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	s := newSite(t, func(o *Options) { o.Sources = nil })
	a := s.get("/v2/nginx/manifests/1")
	a.refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "failed inside the proxy")
	if log := s.log.String(); !strings.Contains(log, "panic") || !strings.Contains(log, "handler.go") {
		t.Error("the log has no stack")
	}
}
