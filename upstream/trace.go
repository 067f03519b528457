package upstream

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"berth/internal/span"
)

// traced begins the span of a try, below the request that made it; nil: nothing is
// recorded. The registry is told of the trace, in a header that is made here and not the
// client's; where a redirect leads is not.
func (x *exchange) traced(ctx context.Context, again bool) trace.Span {
	ctx, s := span.Client(ctx, x.req.Method+" "+string(x.op))
	if s == nil {
		return nil
	}
	u := x.req.URL
	s.SetAttributes(
		attribute.String("http.request.method", x.req.Method),
		attribute.String("server.address", u.Hostname()),
		// A query may hold a signature.
		attribute.String("url.full", u.Scheme+"://"+u.Host+u.EscapedPath()),
		attribute.String("berth.registry", x.s.name),
		attribute.Bool("berth.again", again),
	)
	if x.op != opRedirect {
		x.req = x.req.Clone(x.req.Context()) // a try before may still be looking at the header
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(x.req.Header))
	}
	return s
}

// endTrace says what became of a try.
func (a *attempt) endTrace(s trace.Span) {
	if s == nil {
		return
	}
	defer s.End()
	if a.Response != nil {
		s.SetAttributes(attribute.Int("http.response.status_code", a.StatusCode))
	}
	switch {
	case a.err != nil:
		class := classOf(a.err).String()
		s.SetAttributes(attribute.String("error.type", class))
		s.SetStatus(codes.Error, class) // the error itself may name what a redirect signed
	case a.StatusCode >= 400:
		s.SetStatus(codes.Error, a.Status)
	}
}
