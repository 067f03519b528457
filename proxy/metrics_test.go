package proxy

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/oci"
)

func TestMetricsOfAPull(t *testing.T) {
	s := newSite(t, func(o *Options) { o.Organisation = "acme" })
	th := manifestThing()
	withManifest(s, th)
	blob := withBlob(s, &thing{data: pattern(1000)})
	s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Hit}
	s.fake.outcome["open"] = oci.Outcome{Result: oci.Hit}
	s.get("/v2/nginx/manifests/1", "User-Agent", "containerd/v2.1.0").wants(t, http.StatusOK)
	s.head("/v2/nginx/manifests/1", "User-Agent", "containerd/v2.1.0").wants(t, http.StatusOK)
	s.fake.outcome["open"] = oci.Outcome{Result: oci.Fill}
	s.get(blob, "Range", "bytes=0-99", "User-Agent", "docker/28.0.1 go/go1.24").wants(t, http.StatusPartialContent)
	s.fake.outcome["open"] = oci.Outcome{Result: oci.Join}
	s.get(blob).wants(t, http.StatusOK)
	s.server.Close()

	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{2, "berth_requests_total", []string{"organisation", "acme", "registry", "docker.io", "kind", "manifest", "result", "hit"}},
		{1, "berth_requests_total", []string{"organisation", "acme", "registry", "docker.io", "kind", "blob", "result", "fill"}},
		{1, "berth_requests_total", []string{"organisation", "acme", "registry", "docker.io", "kind", "blob", "result", "join"}},
		{4, "berth_requests_total", nil},
		{2, "berth_request_duration_seconds", []string{"kind", "manifest", "result", "hit"}},
		{1, "berth_request_duration_seconds", []string{"kind", "blob", "result", "join"}},
		{float64(len(th.data) + 1000), "berth_served_bytes_total", []string{"organisation", "acme", "registry", "docker.io", "source", "cache"}},
		{100, "berth_served_bytes_total", []string{"organisation", "acme", "registry", "docker.io", "source", "upstream"}},
		{0, "berth_pull_failures_total", nil},
	} {
		if got := s.value(c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	for _, client := range []string{"containerd", "docker", "other"} {
		if got := s.value("berth_last_pull_timestamp_seconds", "client", client); time.Since(time.UnixMilli(int64(got*1000))) > time.Minute {
			t.Errorf("%s pulled at %v", client, got)
		}
	}
}

func TestLogOfAPull(t *testing.T) {
	s := tokenSite(t, nil)
	th := manifestThing()
	d := withManifest(s, th)
	s.fake.outcome["resolve"] = oci.Outcome{Result: oci.Revalidated}
	a := s.get("/v2/docker.io/nginx/manifests/1", append(basicHeader("acme+ci", "acme-canary-secret"), "User-Agent", "podman/5")...).wants(t, http.StatusOK)
	s.server.Close()
	line := s.log.lines(t)[0]
	for key, want := range map[string]any{
		"level": "INFO", "request_id": a.Header.Get("X-Request-Id"), "method": "GET", "kind": "manifest", "status": 200.0,
		"result": "revalidated", "client": "podman", "bytes": float64(len(th.data)), "organisation": "acme", "account": "ci",
		"token": "node", "registry": "docker.io", "repository": "library/nginx", "reference": "1", "digest": string(d),
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
	if took, ok := line["duration"].(float64); !ok || took <= 0 {
		t.Errorf("duration %v", line["duration"])
	}
	if _, failed := line["class"]; failed {
		t.Error("a class without a failure")
	}
}

func TestFailures_RepeatedAreOne(t *testing.T) {
	now := time.Unix(1000, 0)
	r := NewFailures(func() time.Time { return now })
	first := func(key failureKey) bool { return r.add(key, Failure{Organisation: key.organisation}) }
	pull := failureKey{"acme", "docker.io", "library/nginx", "1", "denied"}
	others := []failureKey{
		{"globex", "docker.io", "library/nginx", "1", "denied"}, {"acme", "ghcr.io", "library/nginx", "1", "denied"},
		{"acme", "docker.io", "library/redis", "1", "denied"}, {"acme", "docker.io", "library/nginx", "2", "denied"}, {"acme", "docker.io", "library/nginx", "1", "timeout"},
	}
	if !first(pull) || first(pull) {
		t.Error("the same failure twice at once")
	}
	for _, other := range others {
		if !first(other) {
			t.Errorf("%v was taken for %v", other, pull)
		}
	}
	counted := 0
	for range 120 {
		now = now.Add(time.Second)
		if first(pull) {
			counted++
		}
	}
	if counted != 4 {
		t.Errorf("counted %d times in two minutes", counted)
	}
}

// Who fails most does not make what fails for others count twice, nor have their indexes
// read again.
func TestShare_OfFailuresAndIndexes(t *testing.T) {
	r := NewFailures(nil)
	m := NewMetrics(MetricsOptions{})
	fails := func(organisation, reference string) bool {
		return r.add(failureKey{organisation: organisation, reference: reference}, Failure{Organisation: organisation})
	}
	fails("acme", "1")
	acme := m.note(indexKey{organisation: "acme", repository: "app"})
	for i := range 2 * maxFailures {
		fails("globex", fmt.Sprint(i))
		m.note(indexKey{organisation: "globex", repository: fmt.Sprint(i)})
	}
	if fails("acme", "1") {
		t.Error("a repetition counts")
	}
	if m.note(indexKey{organisation: "acme", repository: "app"}) != acme {
		t.Error("what is known of acme's index is forgotten")
	}
}

func gathered(t *testing.T, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				key += l.GetName() + "=" + l.GetValue() + " "
			}
			all[key] = m.GetCounter().GetValue()
		}
	}
	return all
}

func TestFailuresStartAtZero(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(MetricsOptions{Registerer: registry})
	m.Expect("acme", "ghcr.io")
	m.Expect("acme", "ghcr.io")
	all := gathered(t, registry, "berth_pull_failures_total")
	for _, class := range oci.Classes() {
		got, there := all["organisation=acme reason="+class.String()+" registry=ghcr.io "]
		if want := class != oci.ClientGone && class != oci.WrongPlatform; there != want || got != 0 {
			t.Errorf("%s: %v, there: %v", class, got, there)
		}
	}
}

func TestTooManySeries(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(MetricsOptions{Registerer: registry, MaxSeries: 3})
	for i := range 10 {
		for range 2 {
			m.requests.get(labels{fmt.Sprint("org", i), "ghcr.io", "blob", "hit"}).Inc()
		}
	}
	m.requests.get(labels{nobody, "ghcr.io", "blob", "hit"}).Inc()
	all := gathered(t, registry, "berth_requests_total")
	if len(all) != 5 {
		t.Errorf("%d series: %v", len(all), all)
	}
	for key, want := range map[string]float64{
		"kind=blob organisation=org2 registry=ghcr.io result=hit ":  2,
		"kind=blob organisation=other registry=ghcr.io result=hit ": 14,
		"kind=blob organisation=- registry=ghcr.io result=hit ":     1,
	} {
		if all[key] != want {
			t.Errorf("%s is %v, want %v", key, all[key], want)
		}
	}
	if got := gathered(t, registry, "berth_metrics_overflow_total")[""]; got != 7 {
		t.Errorf("%v overflows", got)
	}
}

// A hundred thousand different names make no series (a few hundred without
// BERTH_LONG): repositories, tags, digests, clients, hosts.
func TestSeriesDoNotGrowWithNames(t *testing.T) {
	s := newSite(t, nil)
	series := func() (n int) {
		families, err := s.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			n += len(family.GetMetric())
		}
		return n
	}
	ask := func(i int) {
		s.get(fmt.Sprintf("/v2/x%d/manifests/t%d", i, i), "User-Agent", fmt.Sprintf("agent%d/1", i)).wants(t, http.StatusNotFound)
		s.get(fmt.Sprintf("/v2/x%d.example/a/manifests/t%d", i, i)).wants(t, http.StatusForbidden)
		s.get(fmt.Sprintf("/v2/a/manifests/t?ns=x%d.example", i)).wants(t, http.StatusForbidden)
		s.get("/v2/a/manifests/"+string(oci.DigestOf(fmt.Append(nil, i)))).wants(t, http.StatusNotFound)
		s.get("/v2/a/manifests/t", "Host", fmt.Sprintf("x%d.example", i)).wants(t, http.StatusForbidden)
	}
	ask(0)
	before := series()
	many := 200
	if os.Getenv("BERTH_LONG") != "" {
		many = 100_000
	}
	for i := range many {
		ask(i)
	}
	if after := series(); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

func TestClientFamily(t *testing.T) {
	for agent, want := range map[string]string{
		"docker/28.0.1 go/go1.24.1 git-commit/bbd0a17 kernel/6.1 os/linux arch/amd64 UpstreamClient(Docker-Client/28.0.1 \\(linux\\))": "docker",
		"containerd/v2.1.0": "containerd",
		"containerd/1.6.20": "containerd",
		"containers/5.35.0 (github.com/containers/image)": "podman",
		"Buildah/1.39":   "podman",
		"skopeo/1.9.3":   "podman",
		"buildkit/v0.20": "buildkit",
		"crane/v0.22.1 go-containerregistry/v0.22.1": "crane",
		"go-containerregistry/v0.22.1":               "crane",
		"Mozilla/5.0":                                "other",
		"":                                           "other",
		"/":                                          "other",
		"averyveryveryverylongproductname/1":         "other",
	} {
		if got := clientFamily(agent); got != want {
			t.Errorf("%q is %s, want %s", agent, got, want)
		}
	}
}

// Organisations that come and go leave nothing behind, room included.
func TestSeriesGoWithTheirOrganisation(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(MetricsOptions{Registerer: registry, MaxSeries: 5})
	for i := range 20 {
		name := fmt.Sprint("org", i)
		for _, result := range []string{"hit", "fill"} {
			m.requests.get(labels{name, "ghcr.io", "blob", result}).Inc()
		}
		m.served.get(labels{nobody, "ghcr.io", "cache"}).Inc()
		m.Keep(func(organisation string) bool { return organisation == name }, func(string) bool { return true })
	}
	all := gathered(t, registry, "berth_requests_total")
	if len(all) != 2 || all["kind=blob organisation=org19 registry=ghcr.io result=hit "] != 1 {
		t.Errorf("%v", all)
	}
	if got := gathered(t, registry, "berth_served_bytes_total"); len(got) != 1 {
		t.Errorf("nobody's: %v", got)
	}
	if got := gathered(t, registry, "berth_metrics_overflow_total")[""]; got != 0 {
		t.Errorf("%v overflows", got)
	}
}

// So do registries, which an organisation may name anew with each change of its own: with
// what was counted of them, and the room for it.
func TestMetrics_GoWithTheirRegistry(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(MetricsOptions{Registerer: registry, MaxSeries: 200})
	for i := range 100 {
		name := fmt.Sprintf("r%d.example", i)
		for _, organisation := range []string{"acme", nobody} {
			m.Expect(organisation, name)
			m.requests.get(labels{organisation, name, "blob", "hit"}).Inc()
			m.pulls.durations.get(labels{organisation, name, "hit"}).Observe(1)
		}
		m.limited.get(labels{"acme", "limits.requests"}).Inc()
		m.Keep(func(string) bool { return true }, func(r string) bool { return r == name })
	}
	for _, family := range []string{"berth_requests_total", "berth_pull_duration_seconds"} {
		if all := gathered(t, registry, family); len(all) > 4 {
			t.Errorf("%s has %d series: %v", family, len(all), all)
		}
	}
	if got := gathered(t, registry, "berth_metrics_overflow_total")[""]; got != 0 {
		t.Errorf("%v overflows", got)
	}
	if all := gathered(t, registry, "berth_limit_refusals_total"); all["limit=limits.requests organisation=acme "] != 100 {
		t.Errorf("refusals by limits have no registry, and stay: %v", all)
	}
}

// One organisation alone does not take all the room, however many registries it names.
func TestMetrics_RoomIsSharedOut(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(MetricsOptions{Registerer: registry, MaxSeries: 800})
	for i := range 1000 {
		m.requests.get(labels{"globex", fmt.Sprintf("r%d.example", i), "blob", "hit"}).Inc()
	}
	for i := range 40 {
		m.requests.get(labels{fmt.Sprint("org", i), "ghcr.io", "blob", "hit"}).Inc()
	}
	all := gathered(t, registry, "berth_requests_total")
	for i := range 40 {
		if all[fmt.Sprintf("kind=blob organisation=org%d registry=ghcr.io result=hit ", i)] != 1 {
			t.Errorf("org%d, which comes after, has no series of its own", i)
		}
	}
	if n := all["kind=blob organisation=globex registry=other result=hit "]; n != 600 || len(all) != 400+40+1 {
		t.Errorf("%v of its are in one, and there are %d series", n, len(all))
	}
	m.Keep(func(organisation string) bool { return organisation != "globex" }, func(string) bool { return true })
	if all := gathered(t, registry, "berth_requests_total"); len(all) != 40 {
		t.Errorf("%d series are left when it is gone", len(all))
	}
}
