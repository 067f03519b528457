//go:build e2e

package e2e

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// traced is what a collector was told: a span, and which program it is from.
type traced struct{ trace, service, name string }

// startCollector takes OTLP over HTTP.
func startCollector(t *testing.T) (address string, spans <-chan traced) {
	t.Helper()
	all := make(chan traced, 10_000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got collector.ExportTraceServiceRequest
		if err == nil && r.URL.Path == "/v1/traces" {
			err = proto.Unmarshal(body, &got)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, of := range got.ResourceSpans {
			service := ""
			for _, a := range of.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, in := range of.ScopeSpans {
				for _, span := range in.Spans {
					select {
					case all <- traced{hex.EncodeToString(span.TraceId), service, span.Name}:
					default: // more than the test looks at
					}
				}
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, all
}

// One trace from the daemon to the registry: what dockerd of moby v2 begins goes on in
// berth, and in the registry, which sends spans of its own.
func TestTraceFromTheDaemon(t *testing.T) {
	onlyBehindBerth(t)
	w := newWorld(t)
	address, spans := startCollector(t)
	env := []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=" + address, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=100"}
	w.acme = startRegistry(t, w.acme.name, acmeUpstream, acmeHash, env...)
	w.berth.writeConfig(t, w)
	config, err := os.ReadFile(w.berth.config())
	must(t, err)
	writeFile(t, w.berth.config(), string(config)+"tracing: {endpoint: '"+address+"'}\n")
	w.berth.stop(t)
	w.berth.start(t)
	d, _ := startDockerWith(t, dockerNew, w, append([]string{"env"}, env...))
	i := pushImage(t, w.acme, "team/traced", 64<<10)
	mustPull(t, d, w.ref(i), w.as("acme"), i.digest)
	w.berth.stop(t) // which sends what is left

	in := map[string]map[string]bool{} // by trace: who, and what of berth
	limit := time.After(20 * time.Second)
	for {
		select {
		case s := <-spans:
			if in[s.trace] == nil {
				in[s.trace] = map[string]bool{}
			}
			if s.service == "berth" {
				in[s.trace][s.name] = true
			} else {
				in[s.trace][s.service] = true
			}
			if one := in[s.trace]; one["dockerd"] && one["distribution"] && one["GET /v2/<name>/blobs/<digest>"] && one["GET blob_get"] && one["HEAD manifest_head"] {
				return
			}
		case <-limit:
			t.Fatalf("no trace has the daemon and the registry in it: %v", in)
		}
	}
}
