package upstream

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/internal/ocitest"
	"berth/oci"
)

func TestMetrics(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, CDN: ocitest.CDNSame, PullLimit: 10})
	up.AddUser("alice", "secret", "acme/app")
	img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{4096}})
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	r := newRegistry(t, Options{Origin: up.Origin(), Metrics: m})
	src := r.As(as("acme", "alice", "secret"))
	if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil {
		t.Fatal(err)
	}
	n := 0
	for kind, d := range map[oci.Kind]oci.Digest{oci.Manifest: img.Digest, oci.Blob: img.Platforms[0].Layers[0]} {
		c, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: kind, Digest: d}, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		n += len(readAll(t, c))
	}
	if _, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf([]byte("missing"))}); err == nil {
		t.Error("a missing blob was found")
	}
	for labels, want := range map[[2]string]float64{
		{"manifest_head", "200"}: 1, {"manifest_get", "200"}: 1, {"blob", "307"}: 1, {"redirect", "200"}: 1,
		{"blob", "404"}: 1, {"auth", "401"}: 1, {"auth", "200"}: 1,
	} {
		if got := testutil.ToFloat64(m.requests.WithLabelValues("registry.test", labels[0], labels[1])); got != want {
			t.Errorf("requests %v: %v, want %v", labels, got, want)
		}
	}
	if got := testutil.ToFloat64(m.fetched.WithLabelValues("registry.test")); got < float64(n) || got > float64(n)+1000 { // and the text of an error
		t.Errorf("%v bytes fetched, want %d", got, n)
	}
	if got := testutil.ToFloat64(m.limit.WithLabelValues("registry.test", "acme", "ci")); got != 10 {
		t.Errorf("limit %v", got)
	}
	if got := testutil.ToFloat64(m.remaining.WithLabelValues("registry.test", "acme", "ci")); got != 9 {
		t.Errorf("remaining %v", got)
	}
	r.Forget("acme", "ci")
	if n := testutil.CollectAndCount(m.limit) + testutil.CollectAndCount(m.remaining); n != 0 {
		t.Errorf("%d series of an account that is gone", n)
	}
	if n := testutil.CollectAndCount(m.durations); n == 0 {
		t.Error("no durations")
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestRetriesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []http.RoundTripper{status(503), failing(errReset), status(429, "Retry-After", "1"), status(408)}}
		r := inMemoryRegistry(t, s.RoundTrip)
		_, err := r.As(Identity{}).Open(t.Context(), anObject, oci.Range{})
		wantClass(t, err, oci.Timeout)
		for _, reason := range []string{"upstream_error", "unreachable", "rate_limited"} {
			if got := testutil.ToFloat64(r.metrics.retries.WithLabelValues("registry.test", reason)); got != 1 {
				t.Errorf("%s: %v", reason, got)
			}
		}
		if got := testutil.ToFloat64(r.metrics.requests.WithLabelValues("registry.test", "blob", "unreachable")); got != 1 {
			t.Errorf("%v requests without an answer", got)
		}
	})
}

// A registry cannot make series: not by statuses, and not by odd limits.
func TestMetricsAreBounded(t *testing.T) {
	m := NewMetrics(nil)
	for code := 100; code < 1000; code++ {
		m.try("x", opBlob, &http.Response{StatusCode: code}, nil, 0)
	}
	if n := testutil.CollectAndCount(m.requests); n > 70 {
		t.Errorf("%d series", n)
	}
	a := newAccounts(&Options{Name: "x", Now: time.Now, Metrics: m, Logger: slog.New(slog.DiscardHandler)})
	for _, v := range []string{"", "none", "-1", "1e9", "NaN", "99999999999999", "1,5", strings.Repeat("9", 1000)} {
		a.read(nil, http.Header{"Ratelimit-Limit": {v}, "Ratelimit-Remaining": {v}})
	}
	if n := testutil.CollectAndCount(m.limit) + testutil.CollectAndCount(m.remaining); n != 0 || len(a.rows(false)) != 0 {
		t.Errorf("%d limits of nonsense", n)
	}
	for _, v := range []string{"100;w=21600", " 100 ; w=21600", "100;w=21600;burst=5", "100;x=1;w=21600"} {
		if l := readLimit(http.Header{"Ratelimit-Limit": {v}}, time.Time{}); l.limit == nil || *l.limit != 100 || l.window != 6*time.Hour || l.remaining != nil {
			t.Errorf("%q: %+v", v, l)
		}
	}
}
