package proxy

import (
	"context"
	"errors"

	"berth/oci"
)

// blob answers end-2.
func (x *exchange) blob(ctx context.Context, source oci.Source) error {
	if x.w.noBody {
		return x.blobHeader(ctx, source)
	}
	spans := x.spans(x.req.Digest)
	err := x.blobBytes(ctx, source, hint(spans), spans)
	if errors.Is(err, errUnfit) {
		// A stream that is not what was asked for, such as one piece for several
		// ranges. The whole object always is.
		err = x.blobBytes(ctx, source, oci.Range{}, nil)
	}
	if errors.Is(err, errUnfit) {
		return &oci.Error{Class: oci.UpstreamError, Message: x.where() + " sent only a part of the content", Err: err}
	}
	return err
}

// blobHeader answers a HEAD. A Range is for GET alone (RFC 9110, section 14.2).
func (x *exchange) blobHeader(ctx context.Context, source oci.Source) error {
	c, err := source.Stat(ctx, x.object(oci.Blob, x.req.Digest))
	if err != nil {
		return err
	}
	x.outcome = c.Outcome
	x.describeBlob(c)
	x.sendHeader(c.Size)
	return nil
}

func (x *exchange) blobBytes(ctx context.Context, source oci.Source, wanted oci.Range, spans []span) error {
	c, err := source.Open(ctx, x.object(oci.Blob, x.req.Digest), wanted)
	if err != nil {
		return err
	}
	b, err := blobBody(c)
	if err != nil {
		return err
	}
	defer b.close(x.patience.end)
	x.outcome = c.Outcome
	x.describeBlob(c)
	if c.Data != nil && x.plain() {
		return x.sendData(c.Data)
	}
	if b.seeker == nil || b.size < 0 {
		x.w.Header().Del("Accept-Ranges") // what comes next may say otherwise
		return x.sendStream(b, c, spans)
	}
	return x.sendSeekable(b, spans)
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
func (x *exchange) describeBlob(c *oci.Content) {
	x.describe(oci.Descriptor{Digest: x.req.Digest, Size: c.Size}, blobType)
	if c.Size >= 0 {
		x.set("Accept-Ranges", "bytes")
	}
}

// plain says that the answer is the whole object, whatever it is.
func (x *exchange) plain() bool {
	header := x.r.Header
	for _, name := range [...]string{"Range", "If-Match", "If-None-Match"} {
		if len(header[name]) > 0 {
			return false
		}
	}
	return true
}

// spans are the ranges that are asked for: none where the client has another
// object in mind (RFC 9110, section 13.1.5; a weak validator never matches).
func (x *exchange) spans(d oci.Digest) []span {
	if only := x.r.Header.Get("If-Range"); only != "" && only != etag(d) {
		return nil
	}
	return parseRange(x.r.Header.Get("Range"))
}
