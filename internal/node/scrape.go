package node

import (
	"bytes"
	"compress/gzip"
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"berth/internal/flight"
)

const (
	// restShare is how many times as long as they worked scrapes rest after it: strangers
	// ask for metrics too, and shall have a tenth of a processor with all that they ask.
	restShare = 9
	// maxRest leaves Prometheus, which gives up after 10 s, time for a scrape itself.
	maxRest = 2 * time.Second
	// scrapeLimit is for a collector that hangs.
	scrapeLimit = time.Minute
)

// scrapes answers GET /metrics. Metrics are gathered once for all who wait for that, so
// that their number costs nothing, and each gets what was gathered after it came.
type scrapes struct {
	from   prometheus.Gatherer
	render http.Handler // of current
	flight *flight.Group[struct{}, *scrape]

	turn    chan struct{} // full while something is made; it guards all below
	due     time.Time     // of the next scrape
	current *scrape
}

// scrape is what was gathered once.
type scrape struct {
	all      *scrapes
	families []*dto.MetricFamily
	err      error
	pages    map[page]*rendered // guarded by the turn
}

// page is a form of a scrape.
type page struct {
	accept string
	gzip   bool
}

// rendered is a page. Its body is never changed.
type rendered struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func newScrapes(r *prometheus.Registry) *scrapes {
	s := &scrapes{from: r, flight: flight.New[struct{}, *scrape](scrapeLimit), turn: make(chan struct{}, 1)}
	gathered := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return s.current.families, s.current.err })
	s.render = promhttp.HandlerFor(gathered, promhttp.HandlerOpts{Registry: r, EnableOpenMetrics: true, DisableCompression: true})
	return s
}

func (s *scrapes) close() { s.flight.Close() }

// ServeHTTP answers one scrape.
func (s *scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	of, err := s.flight.Do(r.Context(), struct{}{}, s.gather)
	if err != nil {
		http.Error(w, "metrics were not gathered: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	p := of.page(page{accept: format(r.Header), gzip: takesGzip(r.Header)})
	maps.Copy(w.Header(), p.header)
	w.WriteHeader(p.status)
	_, _ = w.Write(p.body.Bytes()) // whoever asked is gone if this fails
}

// gather waits until a scrape is due and makes it. Who comes after it has begun waits for
// the next one.
func (s *scrapes) gather(ctx context.Context) (*scrape, error) {
	s.turn <- struct{}{}
	rest := time.NewTimer(time.Until(s.due))
	<-s.turn
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.flight.Forget(func(struct{}) bool { return true })
	of := &scrape{all: s, pages: map[page]*rendered{}}
	s.works(func() { of.families, of.err = s.from.Gather() })
	return of, nil
}

// works does one piece of work at a time and has the next scrape wait for it.
func (s *scrapes) works(do func()) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	begun := time.Now()
	do()
	now := time.Now()
	if s.due.Before(now) {
		s.due = now
	}
	if s.due = s.due.Add(restShare * now.Sub(begun)); s.due.Sub(now) > maxRest {
		s.due = now.Add(maxRest)
	}
}

// page is the scrape in one form, which is made once.
func (of *scrape) page(form page) (p *rendered) {
	of.all.works(func() {
		if p = of.pages[form]; p == nil {
			p = of.make(form)
			of.pages[form] = p
		}
	})
	return p
}

func (of *scrape) make(form page) *rendered {
	if form.gzip {
		plain := page{accept: form.accept}
		if of.pages[plain] == nil {
			of.pages[plain] = of.make(plain)
		}
		return of.pages[plain].compressed()
	}
	p := &rendered{status: http.StatusOK, header: http.Header{}}
	of.all.current = of
	of.all.render.ServeHTTP(p, &http.Request{Method: http.MethodGet, Header: http.Header{"Accept": {form.accept}}})
	of.all.current = nil
	return p
}

// Header is that of the answer.
func (p *rendered) Header() http.Header { return p.header }

// WriteHeader is the answer's status.
func (p *rendered) WriteHeader(status int) { p.status = status }

// Write is a part of its body.
func (p *rendered) Write(b []byte) (int, error) { return p.body.Write(b) }

func (p *rendered) compressed() *rendered {
	c := &rendered{status: p.status, header: p.header.Clone()}
	c.header.Set("Content-Encoding", "gzip")
	c.header.Del("Content-Length")
	w := gzip.NewWriter(&c.body)
	_, _ = w.Write(p.body.Bytes()) // into memory, where nothing fails
	_ = w.Close()
	return c
}

// What is said to be accepted, to have a form made.
const (
	inText        = "text/plain;version=0.0.4"
	inOpenMetrics = "application/openmetrics-text;version=1.0.0"
	inProtobuf    = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)

// format is the one of three forms that a client gets, so that nobody can have more made:
// the one that tells most of those that the client takes.
func format(h http.Header) string {
	accept := strings.ReplaceAll(strings.Join(h.Values("Accept"), ","), " ", "")
	for _, f := range [...]string{inProtobuf, inOpenMetrics} {
		if strings.Contains(accept, f) {
			return f
		}
	}
	return inText
}

// takesGzip says whether a client wants the answer compressed.
func takesGzip(h http.Header) bool {
	for _, list := range h.Values("Accept-Encoding") {
		for one := range strings.SplitSeq(list, ",") {
			name, quality, _ := strings.Cut(strings.ReplaceAll(one, " ", ""), ";q=")
			if weight, err := strconv.ParseFloat(quality, 64); name == "gzip" && (err != nil || weight > 0) {
				return true
			}
		}
	}
	return false
}
