package proxy

import (
	"log/slog"
	"strings"
	"time"

	"berth/oci"
)

// log writes the one line of this request. Nothing in it comes from the query
// or the Authorization header, and what comes from the path was parsed before.
func (x *exchange) log(failure *oci.Error, aborted bool) {
	ctx := x.r.Context()
	logger := x.h.Logger
	if !logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	var room [22]slog.Attr
	attrs := append(room[:0],
		slog.String("request_id", x.id),
		slog.String("method", oci.OneLine(x.r.Method, 16)),
		slog.String("kind", kindOf(x.req.Endpoint)),
		slog.Int("status", x.w.status),
		slog.String("result", x.result(failure)),
		slog.String("client", clientFamily(x.r.UserAgent())),
		slog.Int64("bytes", x.w.sent),
		slog.Duration("header_duration", x.untilHeaders()),
		slog.Duration("duration", time.Since(x.start)),
	)
	if x.w.sent > 0 && failure == nil && x.route.Registry != nil {
		attrs = append(attrs, slog.String("source", source(x.outcome.Result)))
	}
	for _, a := range [...]slog.Attr{
		slog.String("organisation", x.caller.Organisation),
		slog.String("account", x.caller.Account),
		slog.String("token", x.caller.TokenName),
		slog.String("registry", x.registryName()),
		slog.String("repository", x.repository()),
		slog.String("reference", x.req.Tag),
		slog.String("digest", string(x.contentDigest())),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "request", x.why(attrs, failure, aborted)...)
}

// why adds how the request failed, or what else is wrong.
func (x *exchange) why(attrs []slog.Attr, failure *oci.Error, aborted bool) []slog.Attr {
	if failure == nil && x.foreign != nil {
		failure = x.foreign.err
	}
	if failure == nil {
		return attrs
	}
	attrs = append(attrs,
		slog.String("class", failure.Class.String()),
		slog.String("message", x.message(failure)))
	if aborted {
		attrs = append(attrs, slog.Bool("aborted", true))
	}
	if failure.Err != nil {
		attrs = append(attrs, slog.String("cause", withoutQueries(failure.Err.Error())))
	}
	return attrs
}

// withoutQueries cuts what follows a question mark up to where a URL ends. The
// errors of net/http quote whole URLs, and storage back ends sign theirs in the
// query.
func withoutQueries(s string) string {
	var b strings.Builder
	for {
		before, query, found := strings.Cut(s, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteByte('?')
		end := strings.IndexAny(query, " \t\r\n\"'<>")
		if end < 0 {
			return b.String()
		}
		s = query[end:]
	}
}

func (x *exchange) registryName() string {
	if x.route.Registry == nil {
		return ""
	}
	return x.route.Registry.Name
}

// repository is what is asked for: the name as it came, until it is routed.
func (x *exchange) repository() string {
	if x.route.Repo != "" {
		return x.route.Repo
	}
	return x.req.Name
}

func (x *exchange) contentDigest() oci.Digest {
	if x.digest != "" {
		return x.digest
	}
	return x.req.Digest
}
