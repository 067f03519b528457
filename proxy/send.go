package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"berth/oci"
)

const (
	// noCache is harmless to registry clients, which look at nothing of the
	// kind, and keeps a shared cache in front from deciding who may see what.
	noCache = "private, no-cache"

	// maxWarning keeps well below the 4096 bytes that the specification allows
	// for all warnings together.
	maxWarning = 1000
)

// describe writes the headers that tell about content.
func (q *request) describe(d oci.Digest, mediaType string) {
	q.digest = d
	q.set("Content-Type", mediaType)
	q.set("Docker-Content-Digest", string(d))
	q.set("Etag", etag(d))
	q.describeAnswer()
}

// describeAnswer writes the headers that tell how the answer came about.
func (q *request) describeAnswer() {
	q.set("Cache-Control", noCache)
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

// sendData answers with all of an object that is in memory.
func (q *request) sendData(data []byte) error {
	q.set("Content-Length", strconv.Itoa(len(data)))
	if q.w.noBody {
		return nil
	}
	return q.w.writeWhole(data)
}

// sendHeader answers a HEAD.
func (q *request) sendHeader(size int64) {
	if status := q.unmet(); status != 0 {
		q.w.under.Header().Del("Content-Type")
		q.w.status = status
		return
	}
	if size >= 0 {
		q.set("Content-Length", strconv.FormatInt(size, 10))
	}
}

// plain says that the client wants the whole object, and sets no condition.
func (q *request) plain() bool {
	header := q.r.Header
	return len(header["Range"]) == 0 && len(header["If-Match"]) == 0 && len(header["If-None-Match"]) == 0
}

// spans are the ranges that are asked for: none where If-Range names another
// object than d (RFC 9110, section 13.1.5; a weak validator never matches).
func (q *request) spans(d oci.Digest) []span {
	if only := q.r.Header.Get("If-Range"); only != "" && only != etag(d) {
		return nil
	}
	return parseRange(q.r.Header.Get("Range"))
}

// unmet is the status that the client's conditions ask for where one is not met
// (RFC 9110, section 13.2.2), else 0. Conditions with dates do not apply: content
// that is named by its digest has no date.
func (q *request) unmet() int {
	header := q.r.Header
	if list := header.Get("If-Match"); list != "" && !namesTag(list, etag(q.digest)) {
		return http.StatusPreconditionFailed
	}
	if list := header.Get("If-None-Match"); list != "" && namesTag(strings.ReplaceAll(list, "W/", ""), etag(q.digest)) {
		return http.StatusNotModified
	}
	return 0
}

// namesTag looks for tag in a list of entity tags. No digest has a comma in it.
func namesTag(list, tag string) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for one := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(one) == tag {
			return true
		}
	}
	return false
}

// errUnfit says that a Content cannot be sent as what was asked for.
var errUnfit = errors.New("the content does not begin where it must")

// sendContent answers with c, or with the pieces of it that spans name. The headers
// that describe the object are set. It returns errUnfit, with nothing sent, where c
// is a stream of another piece: the caller opens the whole object then.
//
// It does the work of http.ServeContent, which needs an io.Seeker that can tell its
// size, drops the errors of reading, and sends files and several pieces by way of
// type switches and a goroutine of its own.
func (q *request) sendContent(c *oci.Content, spans []span) error {
	b := newBody(c)
	if b.seeker != nil {
		if status := q.unmet(); status != 0 {
			if status == http.StatusNotModified {
				q.w.under.Header().Del("Content-Type")
			}
			q.w.status = status
			return nil
		}
		q.set("Accept-Ranges", "bytes")
	}
	if b.data != nil && q.plain() {
		return q.sendData(b.data)
	}
	var wanted []window
	if len(spans) > 0 && b.size > 0 {
		if wanted = windows(spans, b.size); len(wanted) == 0 {
			return q.unsatisfiable(b.size)
		}
		wanted = b.choose(wanted)
	}
	switch {
	case len(wanted) > 1:
		return q.sendParts(b, wanted)
	case len(wanted) == 1:
		q.set("Content-Range", wanted[0].contentRange(b.size))
		q.w.status = http.StatusPartialContent
		return q.sendWindow(b, wanted[0])
	case b.start > 0 || len(spans) > 0 && b.end >= 0 && b.end != b.size:
		return errUnfit
	}
	return q.sendWindow(b, window{0, b.end})
}

func (q *request) unsatisfiable(size int64) error {
	q.contentRange = "bytes */" + strconv.FormatInt(size, 10)
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusRequestedRangeNotSatisfiable, Code: oci.CodeUnsupported,
		Message: fmt.Sprintf("the range lies outside of the object, which has %d bytes", size),
	}
}

// body is the sendable side of a Content: pieces in any order where it can seek,
// else the bytes from start to end, once.
type body struct {
	io.Reader
	seeker io.Seeker  // nil: it is a stream
	piecer oci.Piecer // nil: it lies in no file
	data   []byte     // all of it, where it is in memory

	size       int64 // of the object; -1: unknown
	start, end int64 // end -1: unknown
}

func newBody(c *oci.Content) body {
	if c.Data != nil && int64(len(c.Data)) == c.Size {
		r := bytes.NewReader(c.Data)
		return body{Reader: r, seeker: r, data: c.Data, size: c.Size, end: c.Size}
	}
	b := body{Reader: c.Body, size: c.Size, end: c.Size}
	if b.seeker, _ = c.Body.(io.Seeker); b.seeker != nil && c.Size >= 0 {
		b.piecer, _ = c.Body.(oci.Piecer)
		return b
	}
	b.seeker, b.start = nil, c.Offset
	if c.Length >= 0 {
		b.end = c.Offset + c.Length
	}
	return b
}

// choose returns wanted where b can be answered with those pieces, else nothing: the
// answer is the whole object then, which RFC 9110 allows and clients take.
func (b body) choose(wanted []window) []window {
	total := int64(0)
	for _, w := range wanted {
		total += w.length
	}
	first := wanted[0]
	switch {
	case b.seeker != nil && total > b.size:
		return nil // pieces that overlap: net/http does the same
	case b.seeker != nil:
		return wanted
	case len(wanted) > 1: // a stream cannot go back for the second
		return nil
	case b.start > first.start || b.end < first.start+first.length:
		return nil
	case b.start == 0 && b.end == b.size && first.start > 0:
		// The registry ignored the range. To throw most of the stream away would
		// take as long as sending it.
		return nil
	}
	return wanted
}

// sendWindow sends one piece of the object. Length -1: all of a stream that does not
// tell its size.
func (q *request) sendWindow(b body, win window) error {
	if win.length >= 0 {
		q.set("Content-Length", strconv.FormatInt(win.length, 10))
	}
	if b.seeker == nil {
		if _, err := io.CopyN(io.Discard, b, win.start-b.start); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return readError(err)
		}
		if win.length >= 0 && win.start+win.length == b.end {
			return q.w.copyToEnd(b, win.length)
		}
		return q.w.copy(b, win.length)
	}
	if win.start > 0 {
		if err := b.seek(win.start); err != nil {
			return err
		}
	}
	if b.piecer != nil && q.w.sendfile {
		return q.w.sendFile(b.piecer, win.length)
	}
	return q.w.copy(b, win.length)
}

func (b body) seek(to int64) error {
	if _, err := b.seeker.Seek(to, io.SeekStart); err != nil {
		return readError(fmt.Errorf("seeking to %d: %w", to, err))
	}
	return nil
}

// sendParts sends several pieces as multipart/byteranges. Most are small, and
// copied so that they share a packet.
func (q *request) sendParts(b body, wanted []window) error {
	contentType := q.w.under.Header().Get("Content-Type")
	header := func(w window) textproto.MIMEHeader {
		return textproto.MIMEHeader{"Content-Range": {w.contentRange(b.size)}, "Content-Type": {contentType}}
	}
	parts := multipart.NewWriter(&q.w)
	length, err := multipartLength(wanted, header, parts.Boundary())
	if err != nil {
		return err
	}
	q.set("Content-Type", "multipart/byteranges; boundary="+parts.Boundary())
	q.set("Content-Length", strconv.FormatInt(length, 10))
	q.w.status = http.StatusPartialContent
	for _, w := range wanted {
		if err := b.seek(w.start); err != nil {
			return err
		}
		if _, err := parts.CreatePart(header(w)); err != nil {
			return err
		}
		if err := q.w.copy(b, w.length); err != nil {
			return err
		}
	}
	return parts.Close()
}

// multipartLength is how long the parts are with everything around them.
func multipartLength(wanted []window, header func(window) textproto.MIMEHeader, boundary string) (int64, error) {
	var around bytes.Buffer
	length := int64(0)
	parts := multipart.NewWriter(&around)
	if err := parts.SetBoundary(boundary); err != nil {
		return 0, err
	}
	for _, w := range wanted {
		if _, err := parts.CreatePart(header(w)); err != nil {
			return 0, err
		}
		length += w.length
	}
	if err := parts.Close(); err != nil {
		return 0, err
	}
	return length + int64(around.Len()), nil
}
