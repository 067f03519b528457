package cache

import (
	"context"
	"errors"
	"io"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/cache/store"
	"berth/internal/descriptor"
	"berth/internal/span"
	"berth/oci"
)

// fetchBlob joins the download of a blob that is not here, or starts it. The
// download may end between the looks at the disk and at the table, so it is tried
// again; each time round somebody else made progress.
func (s *source) fetchBlob(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range) (*oci.Content, error) {
	key := s.blobKey(o)
	ctx, waiting := span.Begin(ctx, "download")
	defer waiting.End()
	for range 5 {
		if s.c.trouble.pastDisk(key) {
			return s.bypass(ctx, principal, o, r)
		}
		a := s.asker(ctx, principal, o)
		content, err := s.c.downloads.Join(ctx, download.Request{
			Key: key, Asker: a, Principal: principal, Repo: o.Repo, Registry: s.u.Spec.Name,
			Organisation: s.u.Organisation, Owner: s.u.Spec.Origin.Owner, Range: r, Right: a.right, Share: s.share,
		})
		switch {
		case errors.Is(err, download.ErrRetry):
			if here, content, err := s.found(o); err != nil || content != nil {
				return here.release(ctx, principal, o, r, content, err)
			}
			continue
		case errors.Is(err, store.ErrDisk):
			return s.bypass(ctx, principal, o, r)
		case err == nil && content.Size >= 0 && content.Size <= hotBlob:
			return s.intoMemory(o, content)
		}
		return content, err
	}
	return nil, endsEarly(o.Digest)
}

// found looks for what a download has published: where s looks, or, where nothing came
// out of the fleet, among what the registry itself has brought.
func (s *source) found(o oci.Object) (*source, *oci.Content, error) {
	content, err := s.cached(o)
	if content != nil || err != nil || s.place.scope == "" {
		return s, content, err
	}
	origin := *s
	origin.place = place{folder: s.origin, bytes: proof.FromOrigin}
	content, err = origin.cached(o)
	return &origin, content, err
}

// intoMemory reads a small blob, which was verified before it could be read at all,
// so that those who come next find it in memory.
func (s *source) intoMemory(o oci.Object, c *oci.Content) (*oci.Content, error) {
	defer c.Close()
	e, ok := s.c.hot.Get(s.hotKey(o.Digest))
	if !ok {
		data := make([]byte, c.Size)
		_, err := io.ReadFull(c.Body, data)
		if err == nil {
			e, err = s.remember(o, data)
		}
		if err != nil {
			return nil, err
		}
	}
	warm := e.content(o)
	warm.Outcome = c.Outcome
	return warm, nil
}

// verified gives a kept blob that is sound, and else what upstream has.
func (s *source) verified(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range, content *oci.Content) (*oci.Content, error) {
	sound, err := s.sound(ctx, o, content, r)
	switch {
	case descriptor.Exhausted(err): // to go past the disk would take one too
		return nil, err
	case errors.Is(err, store.ErrUnchecked):
		return s.bypass(ctx, principal, o, r)
	case err != nil:
		return nil, err
	case !sound:
		return s.fetch(ctx, principal, o, r)
	}
	if b, ok := content.Body.(*fileBody); ok && b.held && r.Start == 0 {
		b.openBypass = func(cause error) (io.ReadCloser, error) {
			return s.asker(ctx, principal, o).Bypass(ctx, download.Rest{File: b.file, Pos: b.pos, End: b.size, Size: b.size, Whole: true}, cause)
		}
	}
	return content, nil
}
