package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"berth/cache/download"
	"berth/oci"
)

// bypass serves a blob past the disk: straight from upstream, as the principal,
// verified and not shared with anyone. Whoever wants everything from some byte on has
// the beginning already and puts the whole together, which nobody checks again: so all
// of it is fetched and hashed, and what comes before that byte is dropped. Only a
// bounded range leaves unverified; its client checks it chunk by chunk.
func (s *source) bypass(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range) (*oci.Content, error) {
	s.c.counts.bypassed.Add(1)
	a := s.asker(ctx, principal, o)
	skip := int64(0)
	if r.Sparse || !r.Bounded() {
		if !r.Sparse {
			skip = r.Start
		}
		r = oci.Range{}
	}
	content, err := a.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	whole := content.Offset == 0 && content.Length == content.Size // or both are unknown
	if r == (oci.Range{}) && !whole {
		// The client would take the piece for all of it, and nothing has verified it.
		content.Close()
		return nil, &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("%s sent only a piece of the blob %s: try again", s.u.Spec.Name, o.Digest)}
	}
	passed := *content
	passed.Again = nil
	passed.Result = oci.Pass
	passed.MediaType = oci.MediaTypeBlob
	if whole {
		v := newVerifiedReader(ctx, a, content)
		if content.Size >= 0 { // else nobody can tell which part it is
			v.skip = min(skip, content.Size)
			passed.Offset, passed.Length = v.skip, content.Size-v.skip
		}
		passed.Body = v
	}
	return &passed, nil
}

// Bypass gives the rest of a blob from upstream when the disk failed with cause in
// the middle of it. The client, which may not be one that resumes, sees nothing of
// it.
func (a *asker) Bypass(ctx context.Context, r download.Rest, cause error) (io.ReadCloser, error) {
	v := &verifiedReader{ctx: ctx, asker: a, size: r.Size, hash: a.object.Digest.Algorithm().Hash(), got: r.Pos}
	if r.Whole {
		if _, err := io.Copy(v.hash, io.NewSectionReader(r.File, 0, r.Pos)); err != nil {
			return nil, errors.Join(cause, fmt.Errorf("reading again what was sent: %w", err))
		}
	}
	a.s.c.counts.bypassed.Add(1)
	content, err := a.Open(ctx, oci.Range{Start: r.Pos, Length: r.End - r.Pos})
	if err != nil {
		return nil, err
	}
	if content.Offset != r.Pos || content.Size >= 0 && content.Size != r.Size ||
		content.End() < r.End || r.Whole && content.End() != r.End {
		content.Close()
		return nil, cause
	}
	if r.Whole {
		v.body = content.Body
		return v, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(content.Body, r.End-r.Pos), content.Body}, nil
}

// verifiedReader reads a whole blob, or the rest of one, from upstream. It stays
// one byte behind what came, so that the last byte leaves only after all of them
// matched the digest. A cut is mended by asking for the rest, a few times.
type verifiedReader struct {
	ctx   context.Context
	asker *asker
	body  io.ReadCloser
	size  int64 // -1: unknown
	hash  hash.Hash

	skip    int64 // bytes to drop: the client has them
	got     int64 // bytes hashed
	held    [1]byte
	holds   bool // held has the newest byte
	done    bool
	resumed int
}

func newVerifiedReader(ctx context.Context, a *asker, c *oci.Content) *verifiedReader {
	return &verifiedReader{ctx: ctx, asker: a, body: c.Body, size: c.Size, hash: a.object.Digest.Algorithm().Hash()}
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for !v.done {
		n, err := v.advance(p)
		if v.size >= 0 && v.got > v.size {
			return 0, download.Corrupt(v.asker.object.Digest, fmt.Errorf("more than %d bytes", v.size))
		}
		if err == io.EOF || err != nil && v.got == v.size {
			return v.finish(p, n)
		}
		if err != nil {
			err = v.resume(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// advance reads once and holds the newest byte back: p gets the one held before,
// and all new ones but the last.
func (v *verifiedReader) advance(p []byte) (int, error) {
	var one [1]byte
	into := p
	if left := v.skip - v.got; left > 0 {
		n, err := v.body.Read(p[:min(int64(len(p)), left)])
		v.hash.Write(p[:n])
		v.got += int64(n)
		return 0, err
	}
	if v.holds {
		if into = p[1:]; len(into) == 0 { // no room to shift: trade one byte for one
			into = one[:]
		}
	}
	n, err := v.body.Read(into)
	if n == 0 {
		return 0, err
	}
	v.hash.Write(into[:n]) // a hash never fails
	v.got += int64(n)
	newest := into[n-1]
	if v.holds {
		p[0] = v.held[0]
	} else {
		n--
	}
	v.held[0], v.holds = newest, true
	return n, err
}

// finish verifies, and lets the last byte go after the n that are in p.
func (v *verifiedReader) finish(p []byte, n int) (int, error) {
	digest := v.asker.object.Digest
	if v.size >= 0 && v.got != v.size {
		return 0, io.ErrUnexpectedEOF
	}
	if fmt.Sprintf("%x", v.hash.Sum(nil)) != digest.Encoded() {
		return 0, download.Corrupt(digest, fmt.Errorf("%d bytes", v.got))
	}
	if v.holds && n == len(p) {
		return n, nil // no room: the next Read comes here again
	}
	v.asker.Delivered()
	v.done = true
	if v.holds {
		p[n] = v.held[0]
		n++
	}
	return n, nil
}

// resume asks for the rest after a cut.
func (v *verifiedReader) resume(cause error) error {
	if v.size < 0 || v.resumed >= 3 || v.ctx.Err() != nil {
		return cause
	}
	v.resumed++
	c, err := v.asker.Open(v.ctx, oci.Range{Start: v.got, Length: v.size - v.got})
	if err != nil {
		return cause
	}
	if c.Offset != v.got {
		c.Close()
		return cause
	}
	closeBody(v.body)
	v.body = c.Body
	return nil
}

// Close ends the request.
func (v *verifiedReader) Close() error { return v.body.Close() }

// closeBody ends an upstream body that is not read to its end. What was read from
// it has been checked or dropped.
func closeBody(c io.Closer) { _ = c.Close() }
