package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/oci"
)

func TestHint(t *testing.T) {
	for header, want := range map[string]oci.Range{
		"":                           {},
		"bytes=7-":                   {Start: 7},
		"bytes=7-7":                  {Start: 7, Length: 1},
		"bytes=-7":                   {Start: -7},
		"bytes= 7-8 ,":               {Start: 7, Length: 2},
		"bytes=5-6,1-2":              {Start: 1, Length: 6, Sparse: true},
		"bytes=5-6,1-":               {Start: 1, Sparse: true},
		"bytes=9-,1-2":               {Start: 1, Sparse: true},
		"bytes=-5,-9":                {Start: -9, Sparse: true},
		"bytes=100-200,-9":           {Sparse: true},
		"bytes=1-2,3-x":              {},
		"bytes=7-6":                  {Length: 1},
		"bytes=7-6,9-8":              {Sparse: true},
		"bytes=7-6,1-2":              {Start: 1, Length: 2, Sparse: true},
		"bytes=9223372036854775807-": {},
	} {
		if got := hint(parseRange(header)); got != want {
			t.Errorf("%q: %+v, want %+v", header, got, want)
		}
	}
	if got := len(parseRange("bytes=" + strings.Repeat("1-2,", maxRanges))); got != maxRanges {
		t.Errorf("%d ranges", got)
	}
	if got := parseRange("bytes=" + strings.Repeat("1-2,", maxRanges+1)); got != nil {
		t.Errorf("%d ranges", len(got))
	}
}

// FuzzRange holds the parser to net/http's: what we take, it takes, and sends
// the same bytes.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-0", "bytes=1-,-5", "bytes=-0", "bytes=5-4", "bytes=99-", "bytes= 1-2 , 3-4", "bytes=,,1-1", "bytes=-", "x=1-2", "bytes=0-9223372036854775806"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, header string, size int) {
		if size < 1 || size > 1000 {
			return
		}
		spans := parseRange(header)
		if len(spans) == 0 {
			if got := hint(spans); got != (oci.Range{}) {
				t.Errorf("hint %+v of nothing", got)
			}
			return
		}
		wanted := windows(spans, int64(size))
		covers(t, hint(spans), wanted, int64(size))
		if len(wanted) == 0 {
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		theirs := httptest.NewRecorder()
		r.Header.Set("Range", rangeHeader(wanted))
		theirs.Header().Set("Content-Type", oci.MediaTypeBlob)
		http.ServeContent(theirs, r, "", time.Time{}, bytes.NewReader(pattern(size)))
		ours := httptest.NewRecorder()
		q := &request{r: r, w: response{under: ours, control: *http.NewResponseController(ours), buffers: new(sync.Pool)}}
		q.set("Content-Type", oci.MediaTypeBlob)
		data := pattern(size)
		c := &oci.Content{Descriptor: oci.Descriptor{Size: int64(size), Data: data}}
		if err := errors.Join(q.sendContent(c, spans), q.w.finish()); err != nil {
			t.Fatal(err)
		}
		if got, want := parts(t, ours), parts(t, theirs); ours.Code != theirs.Code || !reflect.DeepEqual(got, want) {
			t.Errorf("%q of %d: %d %v, want %d %v", header, size, ours.Code, got, theirs.Code, want)
		}
	})
}

// parts are the ranges of an answer with their bytes, in order.
func parts(t *testing.T, w *httptest.ResponseRecorder) (all []string) {
	t.Helper()
	if length := w.Header().Get("Content-Length"); length != strconv.Itoa(w.Body.Len()) {
		t.Errorf("Content-Length %s of %d bytes", length, w.Body.Len())
	}
	kind, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "multipart/byteranges" {
		return append(all, w.Header().Get("Content-Range")+kind+w.Body.String())
	}
	for reader := multipart.NewReader(w.Body, params["boundary"]); ; {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, part.Header.Get("Content-Range")+part.Header.Get("Content-Type")+string(data))
	}
}

// rangeHeader writes windows as a header that cannot be misread.
func rangeHeader(all []window) string {
	b := []byte("bytes=")
	for i, w := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, w.start, 10)
		b = append(b, '-')
		b = strconv.AppendInt(b, w.start+w.length-1, 10)
	}
	return string(b)
}

// covers checks that whoever fetches r has every window.
func covers(t *testing.T, r oci.Range, all []window, size int64) {
	t.Helper()
	offset, length := bounds(r, size)
	for _, w := range all {
		if w.start < offset || w.start+w.length > offset+length || w.length < 1 || w.start+w.length > size {
			t.Errorf("%+v of %d bytes (%d from %d) does not cover %+v", r, size, length, offset, w)
		}
	}
}

func TestWindows(t *testing.T) {
	got := windows(parseRange("bytes=0-1,5-,-3,100-200,-0"), 10)
	if want := []window{{0, 2}, {5, 5}, {7, 3}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
