package proxy

import (
	"context"
	"errors"
	"io"
	"time"

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

// measuring is how long the answer to a HEAD waits for a length that nobody tells.
const measuring = 10 * time.Second

// blobHeader answers a HEAD. A Range is for GET alone (RFC 9110, section 14.2).
func (q *request) blobHeader(ctx context.Context, source oci.Source) error {
	o := q.object(oci.Blob, q.parsed.Digest)
	c, err := source.Stat(ctx, o)
	if err != nil {
		return err
	}
	q.outcome = c.Outcome
	size := c.Size
	if size < 0 {
		size = measure(ctx, source, o)
	}
	q.describe(q.parsed.Digest, oci.MediaTypeBlob)
	if size >= 0 {
		q.set("Accept-Ranges", "bytes")
	}
	q.sendHeader(size)
	return nil
}

// measure reads a blob whose length its registry does not tell, since clients want one
// from a HEAD, and ask for the blob next. It is kept meanwhile, so that a length which
// does not come in time (-1) is there for who asks later.
func measure(ctx context.Context, source oci.Source, o oci.Object) int64 {
	ctx, cancel := context.WithTimeout(ctx, measuring)
	defer cancel()
	c, err := source.Open(ctx, o, oci.Range{})
	if err != nil {
		return -1
	}
	defer c.Close()
	if c.Size >= 0 {
		return c.Size
	}
	n, err := io.Copy(io.Discard, c.Body)
	if err != nil {
		return -1
	}
	return n
}

func (q *request) blobBytes(ctx context.Context, source oci.Source, wanted oci.Range, spans []span) error {
	c, err := source.Open(ctx, q.object(oci.Blob, q.parsed.Digest), wanted)
	if err != nil {
		return err
	}
	defer c.Close()
	q.outcome = c.Outcome
	q.describe(q.parsed.Digest, oci.MediaTypeBlob)
	return q.sendContent(c, spans)
}
