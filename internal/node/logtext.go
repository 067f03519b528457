package node

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// textHandler writes what slog.TextHandler does. That one is a fifth of what a warm
// manifest costs beside the network, since it looks through each key for what must be
// quoted, and each time anew. Whatever is not plain here (a value that is neither text
// nor a number, or text beyond ASCII) goes to it: it alone decides what such a line
// looks like.
type textHandler struct {
	slog.Handler // a slog.TextHandler without attributes or groups of its own

	to    io.Writer // takes lines from several goroutines at once
	lines *sync.Pool
}

func newTextHandler(to *logBuffer, o *slog.HandlerOptions) textHandler {
	return textHandler{Handler: slog.NewTextHandler(to, o), to: to, lines: &sync.Pool{New: func() any { return new([]byte) }}}
}

// Handle writes r.
func (h textHandler) Handle(ctx context.Context, r slog.Record) error {
	buf, ok := h.lines.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	defer h.lines.Put(buf)
	line := append((*buf)[:0], "time="...)
	line = appendTime(line, r.Time)
	line = append(line, " level="...)
	line = append(line, r.Level.String()...)
	line, plain := appendAttr(line, slog.String(slog.MessageKey, r.Message))
	r.Attrs(func(a slog.Attr) bool {
		if plain {
			line, plain = appendAttr(line, a)
		}
		return plain
	})
	*buf = line
	if !plain || r.Time.IsZero() {
		return h.Handler.Handle(ctx, r)
	}
	*buf = append(line, '\n')
	_, err := h.to.Write(*buf)
	return err
}

// appendTime adds t with milliseconds. Formatting by the layout of RFC 3339 itself is
// several times as fast as by any other.
func appendTime(line []byte, t time.Time) []byte {
	const seconds = len("2006-01-02T15:04:05")
	var room [len(time.RFC3339) + 8]byte
	text := t.AppendFormat(room[:0], time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	line = append(line, text[:seconds]...)
	line = append(line, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	return append(line, text[seconds:]...)
}

// appendAttr adds a, or says that it is none that it knows.
func appendAttr(line []byte, a slog.Attr) (_ []byte, plain bool) {
	if a.Value.Kind() == slog.KindGroup && a.Key == "" {
		plain = true
		for _, one := range a.Value.Group() {
			if line, plain = appendAttr(line, one); !plain {
				break
			}
		}
		return line, plain
	}
	if quote, plain := mustQuote(a.Key); quote || !plain {
		return line, false
	}
	line = append(line, ' ')
	line = append(line, a.Key...)
	line = append(line, '=')
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		quote, plain := mustQuote(v.String())
		if quote {
			return strconv.AppendQuote(line, v.String()), plain
		}
		return append(line, v.String()...), plain
	case slog.KindInt64:
		return strconv.AppendInt(line, v.Int64(), 10), true
	case slog.KindUint64:
		return strconv.AppendUint(line, v.Uint64(), 10), true
	case slog.KindBool:
		return strconv.AppendBool(line, v.Bool()), true
	case slog.KindDuration:
		return append(line, v.Duration().String()...), true
	default:
		return line, false
	}
}

// mustQuote says whether s stands in quotes, if it is plain: printable ASCII.
func mustQuote(s string) (quote, plain bool) {
	quote = s == ""
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' {
			return false, false
		}
		quote = quote || c == ' ' || c == '=' || c == '"'
	}
	return quote, true
}
