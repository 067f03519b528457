package proxy

import (
	"log/slog"
	"strings"
	"time"

	"berth/oci"
)

// maxAttrs is room for all that a line may say.
const maxAttrs = 23

// log writes the one line of this request. Nothing in it comes from the query
// or a header that a caller proves itself by, and what comes from the path was parsed before.
func (q *request) log(now time.Time, failure *oci.Error, aborted bool) {
	ctx := q.r.Context()
	logger, level := q.h.Logger, slog.LevelInfo
	// Whoever needs no token to be refused could have the journal drop, or rotate away,
	// what is about others. Engines ask once without their login before they pull.
	if !q.identified && !q.h.strangers.Allow() {
		level = slog.LevelDebug
	}
	if !logger.Enabled(ctx, level) {
		return
	}
	room, ok := q.h.lines.Get().(*[maxAttrs]slog.Attr)
	if !ok {
		room = new([maxAttrs]slog.Attr)
	}
	defer q.h.lines.Put(room)
	attrs := append(room[:0],
		slog.String("request_id", q.id),
		slog.String("method", oci.OneLine(q.r.Method, 16)),
		slog.String("kind", kindOf(q.parsed.Endpoint)),
		slog.Int("status", q.w.status),
		slog.String("result", q.result(failure)),
		slog.String("client", q.client),
		slog.Int64("bytes", q.w.sent),
		slog.Duration("header_duration", q.untilHeaders()),
		slog.Duration("duration", now.Sub(q.start)),
	)
	if q.w.sent > 0 && failure == nil && q.route.Registry != nil {
		attrs = append(attrs, slog.String("source", source(q.outcome.Result)))
	}
	for _, a := range [...]slog.Attr{
		slog.String("organisation", q.caller.Organisation),
		slog.String("account", q.caller.Account),
		slog.String("token", q.caller.TokenName),
		slog.String("identity", string(q.caller.Identity)),
		slog.String("registry", q.registryName()),
		slog.String("repository", q.repository()),
		slog.String("reference", q.parsed.Tag),
		slog.String("digest", string(q.contentDigest())),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	// Past LogAttrs, which looks up its caller for each line, and for no handler of ours.
	line := slog.NewRecord(now, level, "request", 0)
	// A record copies its attributes where they are more than a few. Those of a group
	// without a name stay where they are, and stand in the line like any others.
	line.AddAttrs(slog.Attr{Value: slog.GroupValue(q.why(attrs, failure, aborted)...)})
	_ = logger.Handler().Handle(ctx, line) // LogAttrs drops its error too
}

// why adds how the request failed, or what else is wrong.
func (q *request) why(attrs []slog.Attr, failure *oci.Error, aborted bool) []slog.Attr {
	if failure == nil && q.mismatch != nil {
		failure = q.mismatch.err
	}
	if failure == nil {
		return attrs
	}
	attrs = append(attrs,
		slog.String("class", failure.Class.String()),
		slog.String("message", q.message(failure)))
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

func (q *request) registryName() string {
	if q.route.Registry == nil {
		return ""
	}
	return q.route.Registry.Name
}

// repository is what is asked for: the name as it came, until it is routed.
func (q *request) repository() string {
	if q.route.Repo != "" {
		return q.route.Repo
	}
	return q.parsed.Name
}

func (q *request) contentDigest() oci.Digest {
	if q.digest != "" {
		return q.digest
	}
	return q.parsed.Digest
}
