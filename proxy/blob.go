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
	q.describe(q.parsed.Digest, blobType)
	if c.Size >= 0 {
		q.set("Accept-Ranges", "bytes")
	}
	q.sendHeader(c.Size)
	return nil
}

func (q *request) blobBytes(ctx context.Context, source oci.Source, wanted oci.Range, spans []span) error {
	c, err := source.Open(ctx, q.object(oci.Blob, q.parsed.Digest), wanted)
	if err != nil {
		return err
	}
	if c.Body != nil {
		defer c.Body.Close()
	} else if c.Data == nil {
		return errors.New("the content has no body")
	}
	q.outcome = c.Outcome
	q.describe(q.parsed.Digest, blobType)
	return q.sendContent(c, spans)
}
