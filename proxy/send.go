package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"berth/oci"
)

// conditions are the headers that http.ServeContent is shown, besides Range.
// Dates are not among them: content that is named by its digest has none.
var conditions = [...]string{"If-Match", "If-None-Match"}

const (
	blobType = "application/octet-stream"

	// noCache is harmless to registry clients, which look at nothing of the
	// kind, and keeps a shared cache in front from deciding who may see what.
	noCache = "private, no-cache"

	// maxWarning keeps well below the 4096 bytes that the specification allows
	// for all warnings together.
	maxWarning = 1000
)

// describe writes the headers that tell about content. size -1: not known.
func (q *request) describe(d oci.Descriptor, mediaType string) {
	q.digest = d.Digest
	q.set("Content-Type", mediaType)
	q.set("Docker-Content-Digest", string(d.Digest))
	q.set("Etag", etag(d.Digest))
	q.set("Cache-Control", noCache)
	q.mention()
}

// mention writes the headers that tell how the answer came about.
func (q *request) mention() {
	if q.parsed.NS != "" {
		q.set("Oci-Namespace", q.parsed.NS)
	}
	if q.outcome.Warning != "" {
		q.set("Warning", warning(q.outcome.Warning))
	}
}

func etag(d oci.Digest) string { return `"` + string(d) + `"` }

// warning is text as RFC 7234, section 5.5, wants it: 299 is "miscellaneous
// persistent", "-" an agent that is not named.
func warning(text string) string {
	text = strings.NewReplacer(`"`, "'", `\`, "/").Replace(oci.OneLine(text, maxWarning))
	return `299 - "` + text + `"`
}

// sendBytes answers with data, whole.
func (q *request) sendBytes(mediaType string, data []byte) error {
	q.set("Content-Type", mediaType)
	return q.sendData(data)
}

// sendData is sendBytes for what has been described.
func (q *request) sendData(data []byte) error {
	q.set("Content-Length", strconv.Itoa(len(data)))
	q.w.WriteHeader(http.StatusOK)
	if q.w.noBody {
		return nil
	}
	return q.w.writeWhole(data)
}

// sendHeader answers a HEAD.
func (q *request) sendHeader(size int64) {
	if size >= 0 {
		q.set("Content-Length", strconv.FormatInt(size, 10))
	}
	q.w.WriteHeader(http.StatusOK)
}

// sendSeekable answers with b, or the pieces of it that spans name.
func (q *request) sendSeekable(b *body, spans []span) error {
	shown := http.Header{}
	for _, name := range conditions {
		if v := q.r.Header.Get(name); v != "" {
			shown.Set(name, v)
		}
	}
	// An empty object has no ranges, and clients that ask for one always do.
	if len(spans) > 0 && b.size > 0 {
		wanted := windows(spans, b.size)
		if len(wanted) == 0 {
			return q.unsatisfiable(b.size)
		}
		shown.Set("Range", rangeHeader(wanted))
	}
	http.ServeContent(&q.w, &http.Request{Method: q.r.Method, Header: shown}, "", time.Time{}, b)
	return b.failure()
}

func (q *request) unsatisfiable(size int64) error {
	q.contentRange = "bytes */" + strconv.FormatInt(size, 10)
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusRequestedRangeNotSatisfiable, Code: oci.CodeUnsupported,
		Message: fmt.Sprintf("the range lies outside of the object, which has %d bytes", size),
	}
}

// errUnfit says that a Content cannot be sent as what was asked for.
var errUnfit = errors.New("the content does not begin where it must")

// sendStream answers with c, whose body can only be read from where it begins.
// Nothing was sent when it returns errUnfit: then the whole object fits.
func (q *request) sendStream(b *body, c *oci.Content, spans []span) error {
	f, err := q.fit(c, spans)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, b, f.skip); err != nil {
		b.fail(io.ErrUnexpectedEOF) // unless reading failed before
		return b.failure()
	}
	if f.contentRange != "" {
		q.set("Content-Range", f.contentRange)
		q.w.WriteHeader(http.StatusPartialContent)
	}
	var src io.Reader = b
	if f.length >= 0 {
		q.set("Content-Length", strconv.FormatInt(f.length, 10))
		src = io.LimitReader(b, f.length)
		if f.toEnd {
			src = &heldBack{src: b, left: f.length, fail: b.fail}
		}
	}
	if _, err := q.w.ReadFrom(src); err != nil {
		if failure := b.failure(); failure != nil {
			return failure
		}
		return err
	}
	return nil
}

// fitting is how a stream answers a request.
type fitting struct {
	contentRange string // empty: the whole object
	skip         int64  // of the stream, before the answer begins
	length       int64  // of the answer; -1: until the stream ends
	toEnd        bool   // the answer ends where the stream does
}

// fit finds the fitting of c: 206 for one range of an object of known size,
// else the whole.
func (q *request) fit(c *oci.Content, spans []span) (fitting, error) {
	length := c.Length
	if length < 0 && c.Size >= 0 {
		length = c.Size - c.Offset
	}
	if len(spans) > 0 && c.Size > 0 {
		wanted := windows(spans, c.Size)
		if len(wanted) == 0 {
			return fitting{}, q.unsatisfiable(c.Size)
		}
		if w := wanted[0]; len(wanted) == 1 && c.Offset <= w.start && c.Offset+length >= w.start+w.length && !wholeAnyway(c, w) {
			return fitting{
				contentRange: w.contentRange(c.Size),
				skip:         w.start - c.Offset,
				length:       w.length,
				toEnd:        c.Offset+length == w.start+w.length,
			}, nil
		}
	}
	whole := c.Offset == 0 && (length < 0 || length == c.Size || len(spans) == 0)
	if !whole {
		return fitting{}, errUnfit
	}
	return fitting{length: length, toEnd: true}, nil
}

// wholeAnyway says that upstream ignored the range: to throw most of the stream
// away would take as long as sending it, and clients take the 200.
func wholeAnyway(c *oci.Content, w window) bool {
	return c.Offset == 0 && w.start > 0 && (c.Length < 0 || c.Length == c.Size)
}

// heldBack gives all of src but holds its last byte back until src has ended
// right there. A source that checks digests says so at its end, and a body that
// is complete by its Content-Length could not be called back.
type heldBack struct {
	src  io.Reader
	left int64
	fail func(error)
}

// Read gives the next bytes.
func (h *heldBack) Read(p []byte) (int, error) {
	switch {
	case h.left == 0:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	case h.left > 1:
		n, err := h.src.Read(p[:min(int64(len(p)), h.left-1)])
		h.left -= int64(n)
		if errors.Is(err, io.EOF) {
			err = h.broken(io.ErrUnexpectedEOF)
		}
		return n, err
	}
	return h.last(p)
}

// last reads one byte more than there may be.
func (h *heldBack) last(p []byte) (int, error) {
	var end [2]byte
	n, err := 0, error(nil)
	for n < len(end) && err == nil {
		var m int
		m, err = h.src.Read(end[n:])
		n += m
	}
	switch {
	case n == 2:
		return 0, h.broken(errors.New("the content is longer than its size"))
	case !errors.Is(err, io.EOF):
		return 0, err
	case n == 0:
		return 0, h.broken(io.ErrUnexpectedEOF)
	}
	h.left = 0
	p[0] = end[0]
	return 1, io.EOF
}

func (h *heldBack) broken(err error) error {
	h.fail(err)
	return err
}
