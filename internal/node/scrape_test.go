package node

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// slowMetric takes its time to be gathered, and tells how often it was.
type slowMetric struct {
	gathered atomic.Int64
	takes    time.Duration
}

func (*slowMetric) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc("berth_slow_total", "How often.", nil, nil)
}

func (m *slowMetric) Collect(ch chan<- prometheus.Metric) {
	n := m.gathered.Add(1)
	time.Sleep(m.takes)
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("berth_slow_total", "How often.", nil, nil), prometheus.CounterValue, float64(n))
}

func scrapesOf(t *testing.T, m *slowMetric) *scrapes {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	s := newScrapes(r)
	t.Cleanup(s.close)
	return s
}

// asks gives the answer to one scrape.
func asks(t *testing.T, s http.Handler, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// However many ask, and in whatever form, metrics are gathered in a tenth of the time at
// most, nobody gets what was gathered before he asked, and nobody waits for long.
func TestMetrics_ManyWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &slowMetric{takes: 50 * time.Millisecond}
		s := scrapesOf(t, m)
		begun := time.Now()
		var answers atomic.Int64
		var all sync.WaitGroup
		for i := range 18 {
			all.Go(func() {
				for time.Since(begun) < time.Minute {
					before, asked := m.gathered.Load(), time.Now()
					a := asks(t, s, "Accept", []string{"", "application/openmetrics-text;version=1.0.0"}[i%2], "Accept-Encoding", []string{"gzip", "identity"}[i/2%2])
					if took := time.Since(asked); a.Code != http.StatusOK || took > 2*time.Second {
						t.Errorf("%d after %v", a.Code, took)
					}
					if m.gathered.Load() == before {
						t.Error("it is what was gathered before")
					}
					answers.Add(1)
				}
			})
		}
		all.Wait()
		if n := m.gathered.Load(); n > 121 || n < 60 || answers.Load() < 10*n {
			t.Errorf("gathered %d times in a minute for %d answers", n, answers.Load())
		}
		time.Sleep(time.Minute)
		if asked := time.Now(); asks(t, s).Code != http.StatusOK || time.Since(asked) != m.takes {
			t.Errorf("alone it takes %v", time.Since(asked))
		}
		m.takes = 5 * time.Second
		for range 2 {
			asks(t, s)
		}
		if asked := time.Now(); asks(t, s).Code != http.StatusOK || time.Since(asked) != maxRest+m.takes {
			t.Errorf("after a long one it takes %v", time.Since(asked))
		}
	})
}

// Each client gets the form that it asks for, and no form is made twice of what was
// gathered once.
func TestMetrics_Forms(t *testing.T) {
	m := &slowMetric{}
	s := scrapesOf(t, m)
	for name, c := range map[string]struct{ accept, encoding, contentType, body string }{
		"nothing":        {"", "", "text/plain; version=0.0.4", "berth_slow_total"},
		"a browser":      {"text/html,*/*;q=0.8", "deflate, gzip;q=0", "text/plain; version=0.0.4", "berth_slow_total"},
		"an old form":    {"application/openmetrics-text;version=0.0.1", "gzip", "text/plain; version=0.0.4", "berth_slow_total"},
		"OpenMetrics":    {"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.5", "gzip", "application/openmetrics-text; version=1.0.0", "# EOF"},
		"native buckets": {"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;q=0.3", "br;q=1.0, gzip;q=0.8", "application/vnd.google.protobuf", "berth_slow_total"},
	} {
		a := asks(t, s, "Accept", c.accept, "Accept-Encoding", c.encoding)
		var body io.Reader = a.Body
		if want := strings.Contains(c.encoding, "gzip") && !strings.HasSuffix(c.encoding, "q=0"); (a.Header().Get("Content-Encoding") == "gzip") != want {
			t.Errorf("%s: encoded as %q", name, a.Header().Get("Content-Encoding"))
		} else if want {
			var err error
			if body, err = gzip.NewReader(a.Body); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(body)
		if got := a.Header().Get("Content-Type"); err != nil || !strings.HasPrefix(got, c.contentType) || !bytes.Contains(text, []byte(c.body)) {
			t.Errorf("%s: %v, %s: %.200q", name, err, got, text)
		}
	}
	of, err := s.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	form := page{accept: format(http.Header{}), gzip: true}
	if first := of.page(form); of.page(form) != first || len(of.pages) != 2 {
		t.Errorf("%d forms are kept of one", len(of.pages))
	}
}

// A collector that fails says so, and what hangs or has ended keeps nobody.
func TestMetrics_Trouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &slowMetric{}
		s := scrapesOf(t, m)
		s.from = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, fmt.Errorf("broken") })
		if a := asks(t, s); a.Code != http.StatusInternalServerError || !strings.Contains(a.Body.String(), "broken") {
			t.Errorf("%d: %s", a.Code, a.Body)
		}
		s.close()
		if a := asks(t, s); a.Code != http.StatusServiceUnavailable {
			t.Errorf("%d", a.Code)
		}
	})
}
