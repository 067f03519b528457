package node

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A line is the same to the byte as slog's own, whatever is in it.
func TestLogText_IsSlogs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.StringMatching(`[ -~]{0,20}`),
			rapid.StringMatching(`[a-z0-9./:@-]{0,80}`),
			rapid.StringOfN(rapid.OneOf(rapid.RuneFrom([]rune("a =\"\\\n\x00\x7f\u00a0\u2028é日")), rapid.Rune()), 0, 8, -1),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 4), func(b []byte) string { return string(b) }),
		)
		var value func(depth int) *rapid.Generator[slog.Value]
		value = func(depth int) *rapid.Generator[slog.Value] {
			kinds := []*rapid.Generator[slog.Value]{
				rapid.Map(text, slog.StringValue), rapid.Map(text, slog.StringValue),
				rapid.Map(rapid.Int64(), slog.Int64Value),
				rapid.Map(rapid.Uint64(), slog.Uint64Value),
				rapid.Map(rapid.Bool(), slog.BoolValue),
				rapid.Map(rapid.Int64(), func(n int64) slog.Value { return slog.DurationValue(time.Duration(n)) }),
				rapid.Map(rapid.Float64(), slog.Float64Value),
				rapid.Just(slog.Float64Value(math.Inf(1))),
				rapid.Map(text, func(s string) slog.Value { return slog.AnyValue(errors.New(s)) }),
				rapid.Just(slog.AnyValue(nil)),
				rapid.Just(slog.TimeValue(time.Unix(1, 1))),
				rapid.Just(slog.AnyValue(slog.LevelWarn)),
			}
			if depth < 2 {
				kinds = append(kinds, rapid.Custom(func(t *rapid.T) slog.Value {
					var in []slog.Attr
					for range rapid.IntRange(0, 3).Draw(t, "members") {
						in = append(in, slog.Attr{Key: text.Draw(t, "key"), Value: value(depth+1).Draw(t, "value")})
					}
					return slog.GroupValue(in...)
				}))
			}
			return rapid.OneOf(kinds...)
		}
		zone := time.FixedZone("", rapid.IntRange(-14*60, 14*60).Draw(t, "zone")*60)
		at := time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).In(rapid.SampledFrom([]*time.Location{time.UTC, zone}).Draw(t, "location"))
		if rapid.IntRange(0, 20).Draw(t, "zero") == 0 {
			at = time.Time{}
		}
		r := slog.NewRecord(at, slog.Level(rapid.IntRange(-8, 12).Draw(t, "level")), text.Draw(t, "message"), 0)
		for range rapid.IntRange(0, 8).Draw(t, "attributes") {
			r.AddAttrs(slog.Attr{Key: rapid.OneOf(text, rapid.Just("")).Draw(t, "key"), Value: value(0).Draw(t, "value")})
		}
		o := &slog.HandlerOptions{Level: slog.LevelDebug - 4}
		var want, got bytes.Buffer
		if err := slog.NewTextHandler(&want, o).Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		b := newLogBuffer(&got)
		if err := newTextHandler(b, o).Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		b.close()
		if got.String() != want.String() {
			t.Errorf("%q, slog %q", got.String(), want.String())
		}
	})
}
