package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"berth/internal/span"
)

// tracing sends spans to a collector; nil: nothing is traced.
type tracing struct{ provider *sdk.TracerProvider }

// flushFor bounds the wait for a collector when the process ends.
const flushFor = 2 * time.Second

// newTracing begins it where endpoint, or the environment that OpenTelemetry knows,
// names a collector. A collector that does not answer costs spans, and no pull.
func newTracing(ctx context.Context, endpoint, version string, log *slog.Logger) (*tracing, error) {
	if os.Getenv("OTEL_TRACES_EXPORTER") != "none" && os.Getenv("OTEL_SDK_DISABLED") != "true" {
		endpoint = cmp.Or(endpoint, os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	}
	if endpoint == "" {
		return nil, nil //nolint:nilnil // it is off
	}
	at, err := tracesURL(endpoint)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(at), otlptracehttp.WithTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("spans are lost: the collector of tracing.endpoint does not take them", "err", err)
	}))
	host, _ := os.Hostname() // then it is left out
	about := resource.NewSchemaless(
		attribute.String("service.name", "berth"), attribute.String("service.version", version), attribute.String("host.name", host),
	)
	return &tracing{provider: sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))}, nil
}

// tracesURL is where a collector takes traces: what is configured is its address.
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("tracing.endpoint: %.200q is no address of a collector: write it as http://localhost:4318", endpoint)
	}
	if !strings.HasSuffix(u.Path, "/v1/traces") {
		u = u.JoinPath("v1/traces")
	}
	return u.String(), nil
}

// tracer makes spans; nil: none.
func (t *tracing) tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer(span.Scope)
}

// close sends what is left.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushFor)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // spans are lost, and that was said
}
