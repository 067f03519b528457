package proxy

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"berth/oci"
)

// leave asks for path and leaves when ready, having read what n says.
func (s *site) leave(path string, n int, ready <-chan struct{}, headers ...string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(headers) > 0 {
		req.Header.Set(headers[0], headers[1])
	}
	if n == 0 {
		go func() {
			<-ready
			cancel()
		}()
	}
	resp, err := s.client.Do(req)
	if n == 0 {
		if err == nil {
			_ = resp.Body.Close()
			s.t.Errorf("an answer: %s", resp.Status)
		}
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, n)); err != nil {
		s.t.Error(err)
	}
	cancel()
	_ = resp.Body.Close()
}

// A client that left is nobody's failure.
func TestClientLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		n      int
		header string
		class  oci.Class // of what the source makes of it
	}{
		"while it waits":                        {0, "", oci.ClientGone},
		"while it waits, seen as unreachable":   {0, "", oci.Unreachable},
		"in the middle":                         {1000, "", oci.ClientGone},
		"in the middle of parts":                {1000, "bytes=0-199990,199995-199999", oci.ClientGone},
		"in the middle, seen as a timeout":      {1000, "", oci.Timeout},
		"in the middle of a range to the end":   {1000, "bytes=1-", oci.ClientGone},
		"in the middle, seen as upstream error": {1000, "", oci.UpstreamError},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			waiting := make(chan struct{})
			seen := func(ctx context.Context) error {
				close(waiting)
				<-ctx.Done()
				return &oci.Error{Class: c.class, Message: "x", Err: ctx.Err()}
			}
			data := pattern(blobSize)
			path := withBlob(s, &thing{data: data})
			if c.n == 0 {
				s.fake.before = func(ctx context.Context, _ string) error { return seen(ctx) }
			} else {
				// The second half is not there until the client has gone.
				path = "/v2/nginx/blobs/" + string(s.fake.put("library/nginx", oci.Blob, &thing{data: data, failAt: blobSize / 2, failWhen: seen}))
			}
			s.leave(path, c.n, waiting, "Range", c.header)
			s.server.Close()
			line := s.log.lines(t)[0]
			if line["result"] != "client_gone" || line["class"] != "client_gone" {
				t.Errorf("logged as %v", line)
			}
			if got := s.value("berth_pull_failures_total"); got != 0 {
				t.Errorf("%v failures counted", got)
			}
			if got := s.value("berth_requests_total", "kind", "blob", "result", "client_gone"); got != 1 {
				t.Errorf("%v counted", got)
			}
		})
	}
}

// What is certain stays so, even if nobody hears it.
func TestClientLeavesBeforeARefusal(t *testing.T) {
	s := newSite(t, nil)
	waiting := make(chan struct{})
	s.fake.before = func(ctx context.Context, _ string) error {
		close(waiting)
		<-ctx.Done()
		return &oci.Error{Class: oci.Denied, Message: "not yours"}
	}
	s.leave("/v2/nginx/manifests/1", 0, waiting)
	s.server.Close()
	if got := s.value("berth_pull_failures_total", "reason", "denied"); got != 1 {
		t.Errorf("%v denials counted", got)
	}
}

// The kernel's buffers fill up, and then the client's time runs out.
func TestStalledClientOverASocket(t *testing.T) {
	s := newSite(t, func(o *Options) { o.StallTimeout = 50 * time.Millisecond })
	path := withBlob(s, &thing{data: make([]byte, 64<<20), form: file})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	s.server.Close() // waits for the handler, while nobody reads
	_ = resp.Body.Close()
	line := s.log.lines(t)[0]
	if line["class"] != "client_gone" || line["aborted"] != true {
		t.Errorf("logged as %v", line)
	}
}
