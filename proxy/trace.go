package proxy

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"berth/oci"
)

// trace goes on with the trace that the client is in, or begins one, from the request's
// first moment. It comes after the login: who has proven nothing makes no spans, which
// would push out those of others, and has no say in what is recorded. What the makers of
// other traces have added (tracestate, up to 16 KiB) is left out: it would stand in each
// span, and go on to registries.
func (q *request) trace() {
	if q.h.Tracer == nil {
		return
	}
	ctx := propagation.TraceContext{}.Extract(q.r.Context(), propagation.HeaderCarrier(q.r.Header))
	ctx = trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{}))
	ctx, q.span = q.h.Tracer.Start(ctx, q.r.Method, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(q.start))
	q.r, q.deadline.Context = q.r.WithContext(ctx), ctx // nothing has waited yet
}

// routes are how the distribution specification writes its endpoints.
func routeOf(e oci.Endpoint) string {
	switch e {
	case oci.EndpointPing:
		return "/v2/"
	case oci.EndpointBlob:
		return "/v2/<name>/blobs/<digest>"
	case oci.EndpointManifest:
		return "/v2/<name>/manifests/<reference>"
	case oci.EndpointTags:
		return "/v2/<name>/tags/list"
	case oci.EndpointReferrers:
		return "/v2/<name>/referrers/<digest>"
	}
	return ""
}

// endTrace says in the words of OpenTelemetry's conventions what the request was and
// what became of it.
func (q *request) endTrace() {
	span := q.span
	if span == nil {
		return
	}
	defer span.End()
	if !span.IsRecording() {
		return
	}
	method := oci.OneLine(q.r.Method, 16)
	attributes := []attribute.KeyValue{
		attribute.String("http.request.method", method),
		attribute.Int("http.response.status_code", q.w.status),
		attribute.String("user_agent.original", oci.OneLine(q.r.UserAgent(), 200)),
		attribute.String("berth.request_id", q.id),
	}
	if route := routeOf(q.parsed.Endpoint); route != "" {
		span.SetName(method + " " + route)
		attributes = append(attributes, attribute.String("http.route", route))
	}
	for key, value := range map[string]string{
		"berth.organisation": q.caller.Organisation, "berth.registry": q.registryName(), "berth.result": string(q.outcome.Result),
		"container.image.name": q.imageName(), "oci.manifest.digest": string(q.contentDigest()),
	} {
		if value != "" {
			attributes = append(attributes, attribute.String(key, value))
		}
	}
	if f := q.failure; f != nil {
		attributes = append(attributes, attribute.String("error.type", f.Class.String()))
		if q.w.status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, q.message(f))
		}
	}
	span.SetAttributes(attributes...)
}

// exemplar is the trace that the request is of, if there is one.
func (q *request) exemplar() prometheus.Labels {
	if q.h.Tracer == nil {
		return nil
	}
	sc := trace.SpanContextFromContext(q.r.Context())
	if !sc.IsSampled() {
		return nil
	}
	return prometheus.Labels{"trace_id": sc.TraceID().String()}
}

func observe(o prometheus.Observer, took time.Duration, exemplar prometheus.Labels) {
	if with, ok := o.(prometheus.ExemplarObserver); ok && exemplar != nil {
		with.ObserveWithExemplar(took.Seconds(), exemplar)
		return
	}
	o.Observe(took.Seconds())
}
