package upstream

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"testing"

	"berth/oci"
)

func TestRangeHeader(t *testing.T) {
	for want, r := range map[string]oci.Range{
		"":                            {},
		"bytes=0-0":                   {Length: 1},
		"bytes=0-99":                  {Length: 100},
		"bytes=100-":                  {Start: 100},
		"bytes=100-199":               {Start: 100, Length: 100, Sparse: true},
		"bytes=-5":                    {Start: -5},
		"bytes=9223372036854775807-":  {Start: math.MaxInt64, Length: 2},
		"bytes=1-9223372036854775807": {Start: 1, Length: math.MaxInt64},
		"bytes=-9223372036854775808":  {Start: math.MinInt64},
		"bytes=0-9223372036854775806": {Length: math.MaxInt64},
		"bytes=9223372036854775806-":  {Start: math.MaxInt64 - 1},
	} {
		if got := rangeHeader(r); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}

func TestPartial(t *testing.T) {
	for _, test := range []struct {
		r      oci.Range
		header string
		length int64
		want   piece
		ok     bool
	}{
		{oci.Range{Length: 10}, "bytes 0-9/100", 10, piece{0, 10, 100}, true},
		{oci.Range{Length: 10}, "Bytes 0-9/100", -1, piece{0, 10, 100}, true},
		{oci.Range{Length: 10}, "bytes 0-9/*", 10, piece{0, 10, -1}, true},
		{oci.Range{Length: 10}, "bytes 0-4/100", 5, piece{0, 5, 100}, true}, // less is allowed
		{oci.Range{Start: 5}, "bytes 5-99/100", 95, piece{5, 95, 100}, true},
		{oci.Range{Start: -10}, "bytes 90-99/100", 10, piece{90, 10, 100}, true},
		{oci.Range{Start: -200}, "bytes 0-99/100", 100, piece{0, 100, 100}, true},
		{oci.Range{Start: -10}, "bytes 90-99/*", 10, piece{90, 10, -1}, true},
		{oci.Range{Length: 10}, "bytes 0-10/100", 11, piece{}, false}, // more
		{oci.Range{Length: 10}, "bytes 1-10/100", 10, piece{}, false}, // elsewhere
		{oci.Range{Start: 5, Length: 5}, "bytes 0-9/100", 10, piece{}, false},
		{oci.Range{Start: -10}, "bytes 80-99/100", 20, piece{}, false},
		{oci.Range{Start: -10}, "bytes 80-89/100", 10, piece{}, false},
		{oci.Range{Length: 10}, "bytes 0-9/100", 9, piece{}, false},
		{oci.Range{Length: 10}, "bytes 0-9/5", 10, piece{}, false},
		{oci.Range{Length: 10}, "bytes 9-0/100", 10, piece{}, false},
		{oci.Range{Length: 10}, "bytes -9/100", 10, piece{}, false},
		{oci.Range{Length: 10}, "bytes +0-9/100", 10, piece{}, false},
		{oci.Range{Length: 10}, "bytes 0-9", 10, piece{}, false},
		{oci.Range{Length: 10}, "bytes */100", 10, piece{}, false},
		{oci.Range{Length: 10}, "items 0-9/100", 10, piece{}, false},
		{oci.Range{Length: 10}, "", 10, piece{}, false},
		{oci.Range{}, "bytes 0-9223372036854775807/*", -1, piece{}, false},
		{oci.Range{Length: 10}, "bytes 0-9/99999999999999999999", 10, piece{}, false},
	} {
		resp := &http.Response{StatusCode: http.StatusPartialContent, Header: http.Header{"Content-Range": {test.header}}, ContentLength: test.length}
		got, err := partial(resp, test.r)
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%+v, %q, %d: %+v, %v; want %+v", test.r, test.header, test.length, got, err, test.want)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/100", "bytes 5-5/*", "bytes */10", "", "bytes 0--1/0", "bytes 18446744073709551615-0/1"} {
		f.Add(s, int64(0), int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, start, length int64) {
		if p, ok := contentRange(header); ok {
			if p.offset < 0 || p.length <= 0 || p.offset+p.length < 0 || p.size != -1 && p.size < p.offset+p.length {
				t.Errorf("%q: %+v", header, p)
			}
			canonical := fmt.Sprintf("bytes %d-%d/%d", p.offset, p.offset+p.length-1, p.size)
			if again, ok := contentRange(canonical); p.size >= 0 && (!ok || again != p) {
				t.Errorf("%q: %+v, then %+v", header, p, again)
			}
		}
		if n, ok := unsatisfied(header); ok && n < 0 {
			t.Errorf("%q: %d", header, n)
		}
		r := oci.Range{Start: start, Length: max(0, length)}
		p, err := partial(&http.Response{Header: http.Header{"Content-Range": {header}}, ContentLength: -1}, r)
		if err == nil && start >= 0 && (p.offset != start || r.Length > 0 && p.length > r.Length) {
			t.Errorf("%q to %+v: %+v", header, r, p)
		}
		_ = rangeHeader(r)
	})
}

func FuzzNextQuery(f *testing.F) {
	for _, s := range []string{`</v2/a/tags/list?last=b>; rel="next"`, `<?x>; rel=next, <y>`, "<<>>;;,,\"\""} {
		f.Add(s)
	}
	from := mustURL(f, "https://registry.test/v2/a/tags/list")
	f.Fuzz(func(t *testing.T, link string) {
		q, err := nextQuery([]string{link}, from)
		if err != nil && q != "" {
			t.Errorf("%q, and %v", q, err)
		}
		if len(q) > maxNext {
			t.Errorf("%d bytes", len(q))
		}
		u := url.URL{Scheme: from.Scheme, Host: from.Host, Path: from.Path, RawQuery: q}
		if back, err := url.Parse(u.String()); err != nil || back.Host != from.Host || back.Path != from.Path {
			t.Errorf("%q led to %q", link, u.String())
		}
	})
}
