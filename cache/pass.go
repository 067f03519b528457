package cache

import (
	"context"
	"fmt"
	"hash"
	"io"

	"berth/oci"
)

// pass serves o past the disk: straight from upstream, as view, verified and
// not shared with anyone.
func (s *source) pass(ctx context.Context, view oci.View, o oci.Object, r oci.Range) (_ *oci.Content, err error) {
	if o.Kind == oci.Manifest && view.Shared() {
		turn, spent := s.spend(o)
		if spent != nil {
			return nil, spent
		}
		defer func() { turn.over(err != nil) }()
	}
	s.c.counts.bypass()
	sp := newSponsor(s, view, o)
	if r.Sparse {
		r = oci.Range{}
	}
	content, err := sp.open(ctx, r)
	if err != nil {
		return nil, err
	}
	passed := *content
	passed.Again = nil
	passed.Result = oci.Pass
	if o.Kind == oci.Manifest {
		return s.passManifest(o, &passed)
	}
	passed.MediaType = blobType
	if content.Offset == 0 && content.Length == content.Size { // or both are unknown
		passed.Body = &passBody{ctx: ctx, sponsor: sp, body: content.Body, size: content.Size, digest: o.Digest, hash: o.Digest.Algorithm().Hash()}
	}
	return &passed, nil
}

// passManifest reads a manifest into memory: small enough, and to be checked
// before its first byte leaves.
func (s *source) passManifest(o oci.Object, c *oci.Content) (*oci.Content, error) {
	defer closeBody(c.Body)
	data, err := io.ReadAll(io.LimitReader(c.Body, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if !matches(o.Digest, data) {
		return nil, corrupt(o.Digest, fmt.Errorf("%d bytes", len(data)))
	}
	kept, err := s.keepHot(o, data)
	if err != nil {
		return nil, err
	}
	kept.Outcome = c.Outcome
	return kept, nil
}

// passBody verifies a whole blob while it streams: its last byte comes only
// after the digest matched. A cut is mended by asking for the rest, a few times.
type passBody struct {
	ctx     context.Context
	sponsor *sponsor
	body    io.ReadCloser
	size    int64 // -1: unknown
	digest  oci.Digest
	hash    hash.Hash

	got     int64 // bytes taken in
	last    [1]byte
	haveOne bool // last holds a byte that waits
	done    bool
	resumed int
}

// Read gives what came, one byte behind.
func (b *passBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if b.done {
			return 0, io.EOF
		}
		n, err := b.take(p)
		if err == io.EOF || err != nil && b.got == b.size {
			return b.finish(p, n)
		}
		if err != nil {
			err = b.resume(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// take reads once and keeps the newest byte back: p gets the one kept before,
// and all new ones but the last.
func (b *passBody) take(p []byte) (int, error) {
	lead := 0
	if b.haveOne {
		lead = 1
	}
	if len(p) == 1 && lead == 1 { // no room to shift: trade one byte for one
		var one [1]byte
		n, err := b.body.Read(one[:])
		if n == 0 {
			return 0, err
		}
		p[0] = b.last[0]
		b.note(one[:])
		return 1, err
	}
	n, err := b.body.Read(p[lead:])
	if n == 0 {
		return 0, err
	}
	kept := b.last[0]
	b.note(p[lead : lead+n])
	if lead == 1 {
		p[0] = kept
	}
	return lead + n - 1, err
}

func (b *passBody) note(p []byte) {
	b.hash.Write(p) // a hash never fails
	b.got += int64(len(p))
	b.last[0] = p[len(p)-1]
	b.haveOne = true
}

// finish verifies, and lets the last byte go after the n that are in p.
func (b *passBody) finish(p []byte, n int) (int, error) {
	if b.size >= 0 && b.got != b.size {
		return 0, io.ErrUnexpectedEOF
	}
	if fmt.Sprintf("%x", b.hash.Sum(nil)) != b.digest.Encoded() {
		return 0, corrupt(b.digest, fmt.Errorf("%d bytes", b.got))
	}
	if b.haveOne && n == len(p) {
		return n, nil // no room: the next Read comes here again
	}
	b.done = true
	if b.haveOne {
		p[n] = b.last[0]
		n++
	}
	return n, nil
}

// resume asks for the rest after a cut.
func (b *passBody) resume(cause error) error {
	if b.size < 0 || b.resumed >= 3 || b.ctx.Err() != nil {
		return cause
	}
	b.resumed++
	c, err := b.sponsor.open(b.ctx, oci.Range{Start: b.got, Length: b.size - b.got})
	if err != nil {
		return cause
	}
	if c.Offset != b.got {
		closeBody(c.Body)
		return cause
	}
	closeBody(b.body)
	b.body = c.Body
	return nil
}

// Close ends the request.
func (b *passBody) Close() error { return b.body.Close() }
