package proxy

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
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
		data := pattern(size)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Range", rangeHeader(wanted))
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", blobType)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		if len(wanted) == 1 {
			want := data[wanted[0].start : wanted[0].start+wanted[0].length]
			if w.Code != http.StatusPartialContent || !bytes.Equal(w.Body.Bytes(), want) || w.Header().Get("Content-Range") != wanted[0].contentRange(int64(size)) {
				t.Errorf("%q of %d: %d %q", header, size, w.Code, w.Body)
			}
			return
		}
		kind, _, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
		if err != nil || w.Code == http.StatusPartialContent && kind != "multipart/byteranges" || w.Code != http.StatusPartialContent && w.Code != http.StatusOK {
			t.Errorf("%q of %d: %d %q", header, size, w.Code, kind)
		}
	})
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

// The multipart goroutine of net/http may still be reading when its client has
// left; then the body must not be closed under it.
func TestBodyIsClosedUnderAReader(t *testing.T) {
	reading, gone := make(chan struct{}), make(chan struct{})
	src := &readerFunc{read: func([]byte) (int, error) {
		close(reading)
		<-gone
		return 0, io.ErrClosedPipe
	}}
	b := &body{src: src, size: -1}
	done := make(chan struct{})
	go func() {
		_, _ = b.Read(make([]byte, 1))
		close(done)
	}()
	<-reading
	b.close(func() { close(gone) })
	if !src.closed {
		t.Error("it is not closed")
	}
	<-done
}

func TestBodyIsNotReadAfterItIsClosed(t *testing.T) {
	b := &body{src: &readerFunc{read: func([]byte) (int, error) {
		t.Error("it was read")
		return 0, io.EOF
	}}, size: -1}
	b.close(func() {})
	if n, err := b.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("reading a closed body: %d, %v", n, err)
	}
}

type readerFunc struct {
	read   func([]byte) (int, error)
	inside bool
	closed bool
}

func (r *readerFunc) Read(p []byte) (int, error) {
	r.inside = true
	defer func() { r.inside = false }()
	return r.read(p)
}

func (r *readerFunc) Close() error {
	r.closed = !r.inside
	return nil
}
