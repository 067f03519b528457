package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	model "github.com/prometheus/client_model/go"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	v1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"berth/internal/ocitest"
)

// collected is a collector of OpenTelemetry: it takes OTLP over HTTP and keeps the spans.
type collected struct {
	*httptest.Server

	mu    sync.Mutex
	spans []*v1.Span
}

func newCollector(t *testing.T) *collected {
	t.Helper()
	c := &collected{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &got)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, of := range got.ResourceSpans {
			for _, in := range of.ScopeSpans {
				c.spans = append(c.spans, in.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// One trace from the client to the registry: what the daemon began goes on here, with
// the wait for a turn, the proof, the download and each try upstream below it.
func TestTrace_FromTheClientToTheRegistry(t *testing.T) {
	t.Parallel()
	s, c := newStage(t), newCollector(t)
	s.main(fmt.Sprintf("tracing: {endpoint: %q}\n", c.URL))
	n := s.serve()
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	acme := s.caller(n, "acme")
	header := []string{"Traceparent", "00-" + trace + "-" + parent + "-01", "Baggage", "trigger=api", "Tracestate", "other=" + strings.Repeat("x", 200)}
	for _, path := range []string{manifest, "/v2/" + app + "/blobs/" + s.image.Platforms[0].Layers[0].String()} {
		if a := acme.get(path, header...); a.status != http.StatusOK {
			t.Fatalf("%s", a)
		}
	}
	if a := acme.get("/v2/"+app+"/manifests/none", header...); a.status != http.StatusNotFound {
		t.Errorf("%s", a)
	}
	if a := acme.get(manifest, "Traceparent", "00-"+strings.Repeat("1", 32)+"-"+parent+"-00"); a.status != http.StatusOK { // its client records nothing
		t.Errorf("%s", a)
	}
	for range 10 { // who has proven nothing is in no trace, whatever he says
		if a := s.client(n.doors[tokenDoor]).get(manifest, "Traceparent", "00-"+strings.Repeat("2", 32)+"-"+parent+"-01"); a.status != http.StatusUnauthorized {
			t.Errorf("%s", a)
		}
	}
	n.asOpenMetrics(trace)
	n.stop()

	c.mu.Lock()
	defer c.mu.Unlock()
	above := map[string]string{parent: "the client"}
	for _, span := range c.spans {
		above[hex.EncodeToString(span.SpanId)] = span.Name
	}
	seen := map[string]bool{}
	for _, span := range c.spans {
		if got := hex.EncodeToString(span.TraceId); got != trace {
			t.Errorf("%s is in trace %s", span.Name, got)
		}
		name, ok := above[hex.EncodeToString(span.ParentSpanId)]
		if !ok {
			t.Errorf("%s has a parent that nobody knows", span.Name)
		}
		seen[name+" > "+span.Name] = true
		if span.TraceState != "" {
			t.Errorf("%s has what another made: %s", span.Name, span.TraceState)
		}
		if text := span.String(); strings.Contains(text, "secret") || strings.Contains(text, s.token("acme")) {
			t.Errorf("a secret is in %s", text)
		}
	}
	for _, want := range []string{
		"the client > GET /v2/<name>/manifests/<reference>", "the client > GET /v2/<name>/blobs/<digest>",
		"GET /v2/<name>/manifests/<reference> > admission", "GET /v2/<name>/manifests/<reference> > HEAD manifest_head",
		"GET /v2/<name>/manifests/<reference> > GET manifest_get", "GET /v2/<name>/blobs/<digest> > download", "download > GET blob_get",
	} {
		if !seen[want] {
			t.Errorf("there is no %q in %v", want, seen)
		}
	}
	i := slices.IndexFunc(c.spans, func(s *v1.Span) bool { return s.Name == "GET /v2/<name>/manifests/<reference>" })
	text := c.spans[i].String()
	for _, want := range []string{`"http.response.status_code"`, `"ghcr.io/acme/app:1"`, `"acme"`, s.image.Digest.String()} {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
	told := 0
	for _, r := range s.registry.Requests(ocitest.Match{}) {
		if h := r.Header.Get("Traceparent"); strings.Contains(h, trace) && !strings.Contains(h, parent) {
			told++
		}
		if r.Header.Get("Baggage")+r.Header.Get("Tracestate") != "" {
			t.Errorf("the client's own header went on: %v", r.Header)
		}
	}
	if told < 3 {
		t.Errorf("the registry was told of the trace %d times", told)
	}
}

// Nothing is traced unless somebody says where to, and a collector that is not there
// stops nothing.
func TestTrace_WithoutACollector(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	header := []string{"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	if a := s.caller(n, "acme").get(manifest, header...); a.status != http.StatusOK {
		t.Fatalf("%s", a)
	}
	for _, r := range s.registry.Requests(ocitest.Match{}) {
		if r.Header.Get("Traceparent") != "" {
			t.Errorf("the registry was told of a trace: %v", r.Header)
		}
	}
	n.stop()
	s.main("tracing: {endpoint: 'http://127.0.0.1:1'}\n")
	n = s.serve()
	if a := s.caller(n, "acme").get("/v2/"+app+"/blobs/"+s.image.Platforms[0].Layers[1].String(), header...); a.status != http.StatusOK {
		t.Errorf("%s", a)
	}
	n.stop()
	s.main("tracing: {endpoint: 'localhost:4318'}\n")
	if got := s.command("check"); got.code != exitFailed || !strings.Contains(got.err, "tracing.endpoint: this is no address of a collector") {
		t.Errorf("%+v", got)
	}
}

// A collector that takes connections and never answers costs spans: berth answers pulls
// before it has heard of it, and ends in good time.
func TestTrace_CollectorHangs(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts: its backlog does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.main(fmt.Sprintf("tracing: {endpoint: 'http://%s'}\n", l.Addr()))
	begun := time.Now()
	n := s.serve()
	for range 20 { // spans for the collector
		if a := s.caller(n, "acme").get(manifest); a.status != http.StatusOK {
			t.Fatalf("%s", a)
		}
	}
	started := time.Since(begun)
	begun = time.Now()
	n.stop()
	ended := time.Since(begun)
	t.Logf("it started and answered in %v, and ended in %v", started, ended) // 0.1 s, and 2 s for what is left of the spans
	if ended > 30*time.Second {                                              // the exporter tries again for a minute
		t.Errorf("it ended after %v", ended)
	}
}

// asOpenMetrics asks for the metrics as Prometheus does. An exemplar says of which trace
// a slow request was, and a native histogram is beside the classic one.
func (n *running) asOpenMetrics(trace string) {
	n.t.Helper()
	get := func(accept string) (kind string, body []byte) {
		req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, n.admin+"/metrics", http.NoBody)
		if err != nil {
			n.t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			n.t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err = io.ReadAll(resp.Body); err != nil {
			n.t.Fatal(err)
		}
		return resp.Header.Get("Content-Type"), body
	}
	kind, body := get("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
	text := string(body)
	if !strings.HasPrefix(kind, "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") || !strings.Contains(text, `# {trace_id="`+trace+`"}`) {
		n.t.Errorf("as OpenMetrics: %s, %d bytes, no end or no exemplar", kind, len(text))
	}
	if kind, _ = get(""); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		n.t.Errorf("to whoever asks for nothing: %s", kind)
	}
	kind, body = get("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	from := bufio.NewReader(bytes.NewReader(body))
	native := map[string]bool{}
	for {
		var family model.MetricFamily
		if err := protodelim.UnmarshalFrom(from, &family); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			n.t.Fatalf("%s: %v", kind, err)
		}
		for _, m := range family.Metric {
			if h := m.Histogram; h != nil && len(h.PositiveSpan) > 0 && len(h.Bucket) > 0 {
				native[family.GetName()] = true
			}
		}
	}
	for _, name := range []string{"berth_request_duration_seconds", "berth_upstream_request_duration_seconds"} {
		if !native[name] {
			n.t.Errorf("%s is no native histogram beside the classic one", name)
		}
	}
}
