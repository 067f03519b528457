package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/caller"
	"berth/internal/registry"
	"berth/oci"
)

// site is a listener with a fake behind it.
type site struct {
	t        *testing.T
	server   *httptest.Server
	client   *http.Client
	fake     *fake
	log      *logBuffer
	registry *prometheus.Registry
	metrics  *Metrics

	mu      sync.Mutex
	callers []caller.Caller
	routed  []*registry.Spec
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines are the request lines, decoded.
func (l *logBuffer) lines(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] == "request" {
			all = append(all, m)
		}
	}
	return all
}

// testRouter has Docker Hub, ghcr.io, a registry with port and alias, and one
// that only acme sees.
func testRouter(t testing.TB) *Router {
	t.Helper()
	router, err := NewRouter([]*registry.Spec{
		{Name: "docker.io", Place: registry.Place{Type: registry.DockerHub}},
		{Name: "ghcr.io"},
		{Name: "reg.acme.com:5443", Place: registry.Place{Aliases: []string{"example"}}},
		{Name: "private.acme.com", Organisation: "acme", Place: registry.Place{Aliases: []string{"mine"}}},
		{Name: "same.example.org", Organisation: "acme"},
		{Name: "same.example.org", Organisation: "globex"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return router
}

func newSite(t *testing.T, change func(*Options)) *site {
	t.Helper()
	s := &site{t: t, fake: newFake(t), log: &logBuffer{}, registry: prometheus.NewPedanticRegistry()}
	s.metrics = NewMetrics(MetricsOptions{Registerer: s.registry})
	logger := slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := Options{
		Router: testRouter(t),
		Sources: func(caller caller.Caller, r *registry.Spec) (oci.Source, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.callers, s.routed = append(s.callers, caller), append(s.routed, r)
			return s.fake, nil
		},
		Logger: logger, Metrics: s.metrics,
	}
	if change != nil {
		change(&o)
	}
	s.server = httptest.NewUnstartedServer(nil)
	s.server.Config = Server(New(o), logger)
	s.server.Start()
	s.client = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.server.Close()
	})
	return s
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

// ask sends method and path; headers are alternating names and values.
func (s *site) ask(method, path string, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

func (s *site) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.ask(http.MethodGet, path, headers...)
}

func (s *site) head(path string, headers ...string) answer {
	s.t.Helper()
	return s.ask(http.MethodHead, path, headers...)
}

// wants checks the status.
func (a answer) wants(t *testing.T, status int) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("status %d, want %d: %s", a.StatusCode, status, a.body)
	}
	return a
}

// header checks one header.
func (a answer) header(t *testing.T, name, want string) answer {
	t.Helper()
	if got := a.Header.Get(name); got != want {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
	return a
}

// sends checks the body, which must have ended well.
func (a answer) sends(t *testing.T, want []byte) answer {
	t.Helper()
	if a.err != nil {
		t.Errorf("the body ended with: %v", a.err)
	}
	if !bytes.Equal(a.body, want) {
		t.Errorf("a body of %d bytes, want %d others (%.80q)", len(a.body), len(want), a.body)
	}
	return a
}

// refuses checks an error document: code, and a part of the message.
func (a answer) refuses(t *testing.T, status int, code oci.Code, message string) errorEntry {
	t.Helper()
	a.wants(t, status).header(t, "Content-Type", "application/json")
	var doc struct{ Errors []errorEntry }
	if err := json.Unmarshal(a.body, &doc); err != nil || len(doc.Errors) != 1 {
		t.Fatalf("not an error document: %q (%v)", a.body, err)
	}
	e := doc.Errors[0]
	if e.Code != code {
		t.Errorf("code %s, want %s", e.Code, code)
	}
	if !strings.Contains(e.Message, message) {
		t.Errorf("message %q lacks %q", e.Message, message)
	}
	if id := a.Header.Get("X-Request-Id"); len(id) != 5 || !strings.HasSuffix(e.Message, " ["+id+"]") {
		t.Errorf("message %q does not end in the request id %q", e.Message, id)
	}
	return e
}

// value is a sample of the site's registry: its labels must all match.
func (s *site) value(name string, labels ...string) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			got := map[string]string{}
			for _, l := range m.GetLabel() {
				got[l.GetName()] = l.GetValue()
			}
			match := true
			for pair := range slices.Chunk(labels, 2) {
				match = match && got[pair[0]] == pair[1]
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}
