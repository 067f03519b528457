package proxy

import (
	"context"
	"errors"

	"berth/oci"
)

// blob answers end-2.
func (q *request) blob(ctx context.Context, source oci.Source) error {
	if q.w.noBody {
		return q.blobHeader(ctx, source)
	}
	spans := q.spans(q.parsed.Digest)
	err := q.blobBytes(ctx, source, hint(spans), spans)
	if errors.Is(err, errUnfit) {
		// A stream that is not what was asked for, such as one piece for several
		// ranges. The whole object always is.
		err = q.blobBytes(ctx, source, oci.Range{}, nil)
	}
	if errors.Is(err, errUnfit) {
		return &oci.Error{Class: oci.UpstreamError, Message: q.where() + " sent only a part of the content", Err: err}
	}
	return err
}

// blobHeader answers a HEAD. A Range is for GET alone (RFC 9110, section 14.2).
func (q *request) blobHeader(ctx context.Context, source oci.Source) error {
	c, err := source.Stat(ctx, q.object(oci.Blob, q.parsed.Digest))
	if err != nil {
		return err
	}
	q.outcome = c.Outcome
	q.describeBlob(c)
	q.sendHeader(c.Size)
	return nil
}

func (q *request) blobBytes(ctx context.Context, source oci.Source, wanted oci.Range, spans []span) error {
	c, err := source.Open(ctx, q.object(oci.Blob, q.parsed.Digest), wanted)
	if err != nil {
		return err
	}
	b, err := blobBody(c)
	if err != nil {
		return err
	}
	defer b.close(q.patience.end)
	q.outcome = c.Outcome
	q.describeBlob(c)
	if c.Data != nil && q.plain() {
		return q.sendData(c.Data)
	}
	if b.seeker == nil || b.size < 0 {
		q.w.Header().Del("Accept-Ranges") // what comes next may say otherwise
		return q.sendStream(b, c, spans)
	}
	return q.sendSeekable(b, spans)
}

// blobBody prefers bytes that are in memory.
func blobBody(c *oci.Content) (*body, error) {
	if c.Data != nil && int64(len(c.Data)) == c.Size {
		if c.Body != nil {
			_ = c.Body.Close()
		}
		return memoryBody(c.Data), nil
	}
	if c.Body == nil {
		return nil, errors.New("the content has no body")
	}
	return newBody(c), nil
}

// describeBlob names what was asked for. The type of a blob is its manifest's
// business, and no client looks at it here.
func (q *request) describeBlob(c *oci.Content) {
	q.describe(oci.Descriptor{Digest: q.parsed.Digest, Size: c.Size}, blobType)
	if c.Size >= 0 {
		q.set("Accept-Ranges", "bytes")
	}
}

// plain says that the answer is the whole object, whatever it is.
func (q *request) plain() bool {
	header := q.r.Header
	for _, name := range [...]string{"Range", "If-Match", "If-None-Match"} {
		if len(header[name]) > 0 {
			return false
		}
	}
	return true
}

// spans are the ranges that are asked for: none where the client has another
// object in mind (RFC 9110, section 13.1.5; a weak validator never matches).
func (q *request) spans(d oci.Digest) []span {
	if only := q.r.Header.Get("If-Range"); only != "" && only != etag(d) {
		return nil
	}
	return parseRange(q.r.Header.Get("Range"))
}
