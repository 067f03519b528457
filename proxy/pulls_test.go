package proxy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/caller"
	"berth/internal/registry"
	"berth/oci"
)

// puller pulls library/nginx in a bubble: each question to the source takes as long as
// it is told to.
type puller struct {
	*site

	h           http.Handler
	image, blob string
	takes       time.Duration
}

func inPulls(t *testing.T, test func(p *puller)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &puller{site: &site{t: t, fake: newFake(t), registry: prometheus.NewPedanticRegistry()}}
		p.image = "/v2/nginx/manifests/" + string(withManifest(p.site, manifestThing()))
		p.blob = withBlob(p.site, &thing{data: pattern(1000)})
		p.fake.before = func(context.Context, string) error {
			time.Sleep(p.takes)
			return nil
		}
		p.fake.outcome["resolve"], p.fake.outcome["open"] = oci.Outcome{Result: oci.Hit}, oci.Outcome{Result: oci.Hit}
		p.h = New(Options{
			Router: testRouter(t), Organisation: "acme", Metrics: NewMetrics(MetricsOptions{Registerer: p.registry}),
			Sources: func(caller.Caller, *registry.Spec) (oci.Source, error) { return p.fake, nil },
		})
		test(p)
	})
}

// asks sends one request that takes as long as said, and gives its status.
func (p *puller) asks(takes time.Duration, method, path string) int {
	p.takes = takes
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(p.t.Context(), method, path, http.NoBody)
	r.Host = "localhost"
	p.h.ServeHTTP(w, r)
	return w.Code
}

// measured is what a scrape finds: "result count seconds", in order.
func (p *puller) measured() string {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[string]string{}
	for _, family := range families {
		if family.GetName() != "berth_pull_duration_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			at := map[string]string{}
			for _, l := range m.GetLabel() {
				at[l.GetName()] = l.GetValue()
			}
			if at["organisation"] == "acme" && at["registry"] == "docker.io" {
				all[at["result"]] = fmt.Sprintf("%s %d %.0f", at["result"], m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum())
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Values(all)), ", ")
}

func (p *puller) wants(want string) {
	p.t.Helper()
	if got := p.measured(); got != want {
		p.t.Errorf("measured is %q, want %q", got, want)
	}
}

// A pull is all that one client asks for of a repository, and is counted when nothing
// has come for a minute.
func TestPullDuration_FromTheManifestToTheLastBlob(t *testing.T) {
	inPulls(t, func(p *puller) {
		p.asks(time.Second, http.MethodHead, "/v2/nginx/manifests/1")
		p.asks(time.Second, http.MethodGet, p.image)
		time.Sleep(10 * time.Second)
		p.asks(5*time.Second, http.MethodGet, p.blob)
		time.Sleep(59 * time.Second)
		p.wants("")
		p.asks(time.Second, http.MethodGet, p.blob)
		p.wants("")
		time.Sleep(time.Minute)
		p.wants("hit 1 77")
		p.wants("hit 1 77")
		p.asks(time.Second, http.MethodGet, p.blob) // of no pull: its manifest was long ago
		time.Sleep(time.Hour)
		p.wants("hit 1 77")
	})
}

// A large layer takes longer than a minute, and is a part of the pull all the same.
func TestPullDuration_WhileABlobIsUnderWay(t *testing.T) {
	inPulls(t, func(p *puller) {
		p.asks(0, http.MethodGet, p.image)
		p.fake.outcome["open"] = oci.Outcome{Result: oci.Fill}
		slow := withBlob(p.site, &thing{form: stream, data: pattern(2000), failWhen: func(context.Context) error {
			time.Sleep(2 * time.Minute)
			return io.EOF
		}})
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.asks(0, http.MethodGet, slow)
		}()
		time.Sleep(90 * time.Second)
		p.wants("")
		<-done
		time.Sleep(time.Hour)
		p.wants("fill 1 120")
	})
}

// A pull that begins again, by a tag or a HEAD, is one more; a mere look is none.
func TestPullDuration_OneAfterTheOther(t *testing.T) {
	inPulls(t, func(p *puller) {
		for range 3 {
			p.asks(0, http.MethodHead, "/v2/nginx/manifests/1")
			p.asks(time.Second, http.MethodGet, p.image)
			time.Sleep(10 * time.Second)
		}
		p.wants("hit 2 2")
		for range 3 {
			p.asks(0, http.MethodHead, "/v2/nginx/manifests/1")
			time.Sleep(30 * time.Second)
		}
		time.Sleep(time.Hour)
		p.wants("hit 3 3")
		p.asks(time.Second, http.MethodGet, "/v2/nginx/manifests/1") // resolve and open
		p.asks(time.Second, http.MethodGet, "/v2/nginx/manifests/1")
		p.wants("hit 4 5")
	})
}

// What failed and was had after all did not fail.
func TestPullDuration_OfAFailedPull(t *testing.T) {
	inPulls(t, func(p *puller) {
		p.asks(2*time.Second, http.MethodHead, "/v2/nginx/manifests/none")
		p.asks(2*time.Second, http.MethodGet, "/v2/nginx/manifests/none")
		time.Sleep(time.Hour)
		p.wants("failed 1 4")

		p.asks(0, http.MethodGet, p.image)
		p.fake.fails["open"] = &oci.Error{Class: oci.Timeout, Message: "no answer"}
		if status := p.asks(0, http.MethodGet, p.blob); status != http.StatusServiceUnavailable {
			t.Errorf("status %d", status)
		}
		delete(p.fake.fails, "open")
		p.asks(time.Second, http.MethodGet, p.blob)
		time.Sleep(time.Hour)
		p.wants("failed 1 4, hit 1 1")
	})
}

// However many repositories are asked for, what is remembered is bounded, and a histogram
// leaves room for the counters that alerts need.
func TestPullDuration_IsBounded(t *testing.T) {
	inPulls(t, func(p *puller) {
		m := NewMetrics(MetricsOptions{})
		h := p.h.(*handler)
		h.Metrics = m
		for i := range maxPulls + 100 {
			p.asks(0, http.MethodGet, fmt.Sprintf("/v2/x%d/manifests/1", i))
		}
		if n := len(m.pulls.open.All()); n != maxPulls {
			t.Errorf("%d pulls are followed", n)
		}
	})
	b := &seriesBudget{left: 100, reserve: 50, overflow: prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "Series without room."})}
	took := 0
	for b.take("acme", 13) == hasRoom {
		took++
	}
	if took != 3 || b.take("acme", 1) != hasRoom {
		t.Errorf("%d histograms took room, and %d are left", took, b.left)
	}
}
