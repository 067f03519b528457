package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"berth/oci"
)

// rest is what a client lacks of a blob when the disk fails.
type rest struct {
	file           *os.File // what it has came from here
	pos, end, size int64
	// whole: it has everything before pos, and may have the last byte only if all
	// of it matches the digest. Else it checks for itself, chunk by chunk.
	whole bool
}

// detour gives the rest of o from upstream, past the disk that failed with cause.
// The client, which may not be one that resumes, sees nothing of it.
func (s *source) detour(ctx context.Context, view oci.View, o oci.Object, r rest, cause error) (io.ReadCloser, error) {
	past := &passBody{ctx: ctx, sponsor: newSponsor(s, view, o), size: r.size, digest: o.Digest, hash: o.Digest.Algorithm().Hash(), got: r.pos}
	if r.whole {
		if _, err := io.Copy(past.hash, io.NewSectionReader(r.file, 0, r.pos)); err != nil {
			return nil, errors.Join(cause, fmt.Errorf("reading again what was sent: %w", err))
		}
	}
	s.c.counts.bypass()
	content, err := past.sponsor.open(ctx, oci.Range{Start: r.pos, Length: r.end - r.pos})
	if err != nil {
		return nil, err
	}
	if content.Offset != r.pos || content.End() < r.end {
		closeBody(content.Body)
		return nil, cause
	}
	if r.whole {
		past.body = content.Body
		return past, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(content.Body, r.end-r.pos), content.Body}, nil
}
