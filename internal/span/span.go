// Package span says where the time of a request went, to whoever traces it
// (OpenTelemetry). Spans are begun below the one in a context: where there is none that
// is recorded, nothing is, and nothing is allocated.
package span

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Scope is what all spans of this program are from.
const Scope = "berth"

// Begin starts a span of what happens in here. The caller ends it.
func Begin(ctx context.Context, name string) (context.Context, trace.Span) {
	return begin(ctx, name, trace.SpanKindInternal)
}

// Client starts a span of a request that is sent; nil: nothing is recorded.
func Client(ctx context.Context, name string) (context.Context, trace.Span) {
	if Of(ctx) == nil {
		return ctx, nil
	}
	return begin(ctx, name, trace.SpanKindClient)
}

func begin(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	above := Of(ctx)
	if above == nil {
		return ctx, trace.SpanFromContext(context.Background()) // records nothing
	}
	return above.TracerProvider().Tracer(Scope).Start(ctx, name, trace.WithSpanKind(kind))
}

// End ends s with what became of it.
func End(s trace.Span, err error) {
	if err != nil && s.IsRecording() {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End()
}

// Of is the span of ctx that is recorded; nil: none is.
func Of(ctx context.Context) trace.Span {
	if s := trace.SpanFromContext(ctx); s.SpanContext().IsSampled() {
		return s
	}
	return nil
}

// With is ctx with s in it, if there is one: what belongs to nobody in particular goes
// on below whoever made it start.
func With(ctx context.Context, s trace.Span) context.Context {
	if s == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, s)
}
