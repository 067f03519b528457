package proxy

import (
	"net/http"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// Who has proven nothing makes no spans, neither by asking nor by saying that his request is
// traced. Who has goes on with the trace that he is in, from the moment that the request
// came, without what the makers of other traces put beside it.
func TestTrace_AfterTheLogin(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	state := "other=" + strings.Repeat("x", 200)
	kept := tracetest.NewInMemoryExporter()
	s := tokenSite(t, func(o *Options) { o.Tracer = sdk.NewTracerProvider(sdk.WithSyncer(kept)).Tracer("berth") })
	withManifest(s, manifestThing())
	for _, header := range [][]string{nil, {"Traceparent", parent, "Tracestate", state}, {"Authorization", "Basic bm9ib2R5Om5vdGhpbmc=", "Traceparent", parent}, {"Host", "evil.example", "Traceparent", parent}} {
		for _, path := range []string{"/v2/", "/v2/nginx/manifests/1"} {
			if got := s.get(path, header...); got.StatusCode == http.StatusOK {
				t.Errorf("%s %v: %d", path, header, got.StatusCode)
			}
		}
	}
	if n := len(kept.GetSpans()); n > 0 {
		t.Errorf("strangers made %d spans", n)
	}
	if got := s.get("/v2/nginx/manifests/1", append(basicHeader("acme", "acme-canary-secret"), "Traceparent", parent, "Tracestate", state)...); got.StatusCode != http.StatusOK {
		t.Fatalf("%+v", got)
	}
	spans := kept.GetSpans()
	if len(spans) == 0 {
		t.Fatal("a pull makes no spans")
	}
	root := spans[len(spans)-1]
	if root.Parent.SpanID().String() != "b7ad6b7169203331" || root.SpanKind != trace.SpanKindServer {
		t.Errorf("%s is below %v", root.Name, root.Parent)
	}
	for _, span := range spans {
		if span.SpanContext.TraceState().Len() > 0 || span.SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || span.StartTime.Before(root.StartTime) {
			t.Errorf("%s: %v since %v", span.Name, span.SpanContext, span.StartTime)
		}
	}
}
