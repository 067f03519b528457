package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"testing"

	"berth/oci"
)

const blobSize = 200_000

var forms = map[string]func(*thing){
	"seekable":  func(*thing) {},
	"in memory": func(th *thing) { th.inOpen = true },
	"file":      func(th *thing) { th.form = file },
	"stream":    func(th *thing) { th.form = stream },
}

// withBlob puts a blob into library/nginx.
func withBlob(s *site, th *thing) string {
	return "/v2/nginx/blobs/" + string(s.fake.put("library/nginx", oci.Blob, th))
}

func TestBlob(t *testing.T) {
	for name, change := range forms {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", data: pattern(blobSize)}
			change(th)
			path := withBlob(s, th)
			d := oci.DigestOf(th.data)
			for _, a := range []answer{s.get(path), s.head(path)} {
				a.wants(t, http.StatusOK).
					header(t, "Content-Type", "application/octet-stream").
					header(t, "Content-Length", strconv.Itoa(blobSize)).
					header(t, "Docker-Content-Digest", string(d)).
					header(t, "Docker-Distribution-Api-Version", "registry/2.0").
					header(t, "Etag", `"`+string(d)+`"`).
					header(t, "Oci-Namespace", "")
			}
			s.head(path).header(t, "Accept-Ranges", "bytes")
			if th.form != stream {
				s.get(path).header(t, "Accept-Ranges", "bytes")
			}
			s.get(path).sends(t, th.data)
			if got := s.fake.lastRange(); got != (oci.Range{}) {
				t.Errorf("asked for %+v", got)
			}
			if got := s.fake.count("stat"); got != 2 {
				t.Errorf("%d Stat for two HEAD", got)
			}
		})
	}
}

// A HEAD has the length also where the registry does not tell it, and heeds conditions.
func TestBlob_HeadOfUnknownLength(t *testing.T) {
	for name, change := range map[string]func(*thing){
		"stream": func(th *thing) { th.form = stream }, "seekable": func(*thing) {}, "file": func(th *thing) { th.form = file },
	} {
		s := newSite(t, nil)
		th := &thing{data: pattern(blobSize), unknown: true}
		change(th)
		path := withBlob(s, th)
		s.head(path).wants(t, http.StatusOK).header(t, "Content-Length", strconv.Itoa(blobSize))
		if n := s.fake.count("open"); n != 1 {
			t.Errorf("%s: opened %d times", name, n)
		}
		a := s.head(path, "If-None-Match", `"`+string(oci.DigestOf(th.data))+`"`).wants(t, http.StatusNotModified)
		if a.Header.Get("Content-Type") != "" {
			t.Errorf("%s: 304 with a type", name)
		}
		th.failAt, th.failWith = 10, io.ErrUnexpectedEOF
		s.head(path).wants(t, http.StatusOK).header(t, "Content-Length", "")
	}
}

func TestBlobRange(t *testing.T) {
	data := pattern(blobSize)
	const n = blobSize
	for _, c := range []struct {
		header      string
		start, last int64 // of a 206; last -1: 200; last -2: 416
		hint        oci.Range
	}{
		{"bytes=0-", 0, n - 1, oci.Range{}},
		{"bytes=0-0", 0, 0, oci.Range{Length: 1}},
		{"bytes=10-19", 10, 19, oci.Range{Start: 10, Length: 10}},
		{"bytes=100000-", 100000, n - 1, oci.Range{Start: 100000}},
		{"bytes=199999-", n - 1, n - 1, oci.Range{Start: n - 1}},
		{"bytes=-1", n - 1, n - 1, oci.Range{Start: -1}},
		{"bytes=-70000", n - 70000, n - 1, oci.Range{Start: -70000}},
		{"bytes=-999999", 0, n - 1, oci.Range{Start: -999999}},
		{"bytes=199990-999999", 199990, n - 1, oci.Range{Start: 199990, Length: 800010}},
		{"bytes=500-0", 0, -2, oci.Range{Length: 1}},
		{"bytes=5-4", 0, -2, oci.Range{Length: 1}},
		{"bytes=x", 0, -1, oci.Range{}},
		{"bytes=", 0, -1, oci.Range{}},
		{"bytes=1-2-3", 0, -1, oci.Range{}},
		{"bytes=+1-2", 0, -1, oci.Range{}},
		{"items=0-1", 0, -1, oci.Range{}},
		{"bytes=0-99999999999999999999", 0, -1, oci.Range{}},
		{"bytes=200000-", 0, -2, oci.Range{Start: n}},
		{"bytes=200000-200001", 0, -2, oci.Range{Start: n, Length: 2}},
		{"bytes=-0", 0, -2, oci.Range{}},
	} {
		for name, change := range forms {
			t.Run(c.header+" "+name, func(t *testing.T) {
				s := newSite(t, nil)
				th := &thing{data: data}
				change(th)
				a := s.get(withBlob(s, th), "Range", c.header)
				switch c.last {
				case -1:
					a.wants(t, http.StatusOK).sends(t, data).header(t, "Content-Range", "")
				case -2:
					a.refuses(t, http.StatusRequestedRangeNotSatisfiable, oci.CodeUnsupported, "200000 bytes")
					a.header(t, "Content-Range", "bytes */200000")
					if got := s.value("berth_pull_failures_total"); got != 0 {
						t.Errorf("%v failed pulls: the object is there", got)
					}
				default:
					a.wants(t, http.StatusPartialContent).sends(t, data[c.start:c.last+1]).
						header(t, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", c.start, c.last, n)).
						header(t, "Content-Length", strconv.FormatInt(c.last-c.start+1, 10)).
						header(t, "Content-Type", "application/octet-stream")
				}
				if got := s.fake.lastRange(); got != c.hint {
					t.Errorf("asked for %+v, want %+v", got, c.hint)
				}
			})
		}
	}
}

func TestBlobConditions(t *testing.T) {
	for name, change := range forms {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{data: pattern(1000)}
			change(th)
			path := withBlob(s, th)
			tag := `"` + string(oci.DigestOf(th.data)) + `"`
			s.get(path, "Range", "bytes=1-2", "If-Range", tag).wants(t, http.StatusPartialContent).sends(t, th.data[1:3])
			s.get(path, "Range", "bytes=1-2", "If-Range", `"another"`).wants(t, http.StatusOK).sends(t, th.data)
			if got := s.fake.lastRange(); got != (oci.Range{}) {
				t.Errorf("asked for %+v, though the client has another object", got)
			}
			if th.form != stream {
				s.get(path, "If-None-Match", tag).wants(t, http.StatusNotModified).sends(t, nil)
				s.get(path, "If-Match", `"another"`).wants(t, http.StatusPreconditionFailed)
			}
			s.head(path, "Range", "bytes=1-2").wants(t, http.StatusOK).header(t, "Content-Length", "1000")
		})
	}
}

func TestBlobMultipart(t *testing.T) {
	for name, change := range forms {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{data: pattern(blobSize)}
			change(th)
			a := s.get(withBlob(s, th), "Range", "bytes=0-9, 500-599,-7")
			if th.form == stream {
				// One stream has no parts: everything is an answer too.
				a.wants(t, http.StatusOK).sends(t, th.data)
				return
			}
			if got := s.fake.lastRange(); got != (oci.Range{Sparse: true}) {
				t.Errorf("asked for %+v", got)
			}
			a.wants(t, http.StatusPartialContent)
			checkParts(t, a, th.data, []window{{0, 10}, {500, 100}, {blobSize - 7, 7}})
		})
	}
}

func checkParts(t *testing.T, a answer, data []byte, want []window) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		t.Fatalf("Content-Type %q (%v)", a.Header.Get("Content-Type"), err)
	}
	if a.err != nil || a.ContentLength != int64(len(a.body)) {
		t.Errorf("%d bytes of %d (%v)", len(a.body), a.ContentLength, a.err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, w := range want {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got := part.Header.Get("Content-Range"); got != w.contentRange(int64(len(data))) {
			t.Errorf("part %q, want %q", got, w.contentRange(int64(len(data))))
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, data[w.start:w.start+w.length]) {
			t.Errorf("part %+v has other bytes (%v)", w, err)
		}
	}
	if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
		t.Errorf("there are more parts (%v)", err)
	}
}

func TestBlobStreams(t *testing.T) {
	data := pattern(blobSize)
	for _, c := range []struct {
		name, header string
		change       func(*thing)
		status       int
		start, end   int
		length       int64 // Content-Length; -1: chunked
	}{
		{"unknown size", "", func(th *thing) { th.unknown = true }, 200, 0, blobSize, -1},
		{"unknown size, a range of it", "bytes=5-9", func(th *thing) { th.unknown = true }, 200, 0, blobSize, -1},
		{"unknown size, its start", "bytes=0-", func(th *thing) { th.unknown = true }, 200, 0, blobSize, -1},
		{"upstream ignores the range", "bytes=5-9", func(th *thing) { th.ignoresRange = true }, 200, 0, blobSize, blobSize},
		{"it begins before the range", "bytes=5-9", func(th *thing) { th.front = 20 }, 206, 5, 10, 5},
		{"upstream ignores it, from 0", "bytes=0-9", func(th *thing) { th.ignoresRange = true }, 206, 0, 10, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{data: data, form: stream}
			c.change(th)
			a := s.get(withBlob(s, th), "Range", c.header).wants(t, c.status).sends(t, data[c.start:c.end])
			if a.ContentLength != c.length {
				t.Errorf("Content-Length %d, want %d", a.ContentLength, c.length)
			}
			if c.length < 0 {
				a.header(t, "Accept-Ranges", "")
			}
		})
	}
}

func TestBlobOfNothing(t *testing.T) {
	for name, change := range forms {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			th := &thing{data: []byte{}}
			change(th)
			path := withBlob(s, th)
			s.get(path).wants(t, http.StatusOK).sends(t, nil).header(t, "Content-Length", "0")
			s.get(path, "Range", "bytes=0-").wants(t, http.StatusOK).sends(t, nil)
			s.head(path).wants(t, http.StatusOK).header(t, "Content-Length", "0")
		})
	}
}

func TestBlobNotThere(t *testing.T) {
	s := newSite(t, nil)
	path := "/v2/nginx/blobs/" + string(oci.DigestOf([]byte("nowhere")))
	s.get(path).refuses(t, http.StatusNotFound, oci.CodeBlobUnknown, "library/nginx has no blob sha256:")
	s.head(path).wants(t, http.StatusNotFound).sends(t, nil)
}
