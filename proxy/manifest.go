package proxy

import (
	"context"
	"errors"
	"strings"

	"berth/oci"
)

// manifest answers end-3. A tag is resolved first, and everything else goes by
// digest.
func (q *request) manifest(ctx context.Context, source oci.Source) error {
	d := oci.Descriptor{Digest: q.parsed.Digest, Size: -1}
	q.reads(oci.MaxManifest)
	if q.parsed.Tag != "" {
		resolved, err := source.Resolve(ctx, q.route.Repo, q.parsed.Tag)
		if err != nil {
			return err
		}
		if resolved.Digest == "" {
			return errors.New("a tag was resolved to nothing")
		}
		d, q.outcome = resolved.Descriptor, resolved.Outcome
	}
	if q.w.noBody {
		return q.manifestHeader(ctx, source, d)
	}
	d, err := q.manifestBytes(ctx, source, d)
	if err != nil {
		return err
	}
	over, err := q.memory.keeps(ctx, d.Size, &q.w)
	if err != nil {
		return err
	}
	defer over()
	return q.sendManifest(d)
}

// manifestHeader answers a HEAD.
func (q *request) manifestHeader(ctx context.Context, source oci.Source, d oci.Descriptor) error {
	d, err := q.manifestFacts(ctx, source, d)
	if err != nil {
		return err
	}
	q.lookAt(d)
	q.describe(d.Digest, mediaType(d))
	q.sendHeader(d.Size)
	return nil
}

// manifestFacts is d with its type and its size. A registry may send a manifest as
// something else than it is (goharbor/harbor#15837), and only the document tells, so
// it is read: whoever asks by HEAD asks for it next. Where each GET is counted, or the
// limit is reached, the registry's word is taken, unless it is silent: clients fail on
// an answer without a length, or with one of 0.
func (q *request) manifestFacts(ctx context.Context, source oci.Source, d oci.Descriptor) (oci.Descriptor, error) {
	if !q.route.Registry.Type.CountsManifests() {
		read, err := q.manifestHeld(ctx, source, d)
		if oci.ClassOf(err) != oci.RateLimited {
			return read, err
		}
	}
	if !complete(d) {
		c, err := source.Stat(ctx, q.object(oci.Manifest, d.Digest))
		if err != nil {
			return d, err
		}
		d = q.merge(d, c)
	}
	if complete(d) {
		return d, nil
	}
	return q.manifestHeld(ctx, source, d)
}

// manifestHeld reads the manifest for the answer to a HEAD. No bytes are sent, so their
// memory is given back before the answer leaves.
func (q *request) manifestHeld(ctx context.Context, source oci.Source, d oci.Descriptor) (oci.Descriptor, error) {
	defer q.memory.release(memoryNone)
	return q.manifestBytes(ctx, source, d)
}

func complete(d oci.Descriptor) bool { return d.MediaType != "" && d.Size > 0 }

// manifestBytes is d with its Data.
func (q *request) manifestBytes(ctx context.Context, source oci.Source, d oci.Descriptor) (oci.Descriptor, error) {
	if d.Data != nil {
		return d, nil
	}
	c, err := source.Open(ctx, q.object(oci.Manifest, d.Digest), oci.Range{})
	if err != nil {
		return d, err
	}
	d = q.merge(d, c)
	if d.Data == nil {
		return d, errors.New("a manifest came without its bytes")
	}
	d.Size = int64(len(d.Data))
	return d, nil
}

// merge adds what c tells to what a tag told, and to how it came about: bytes
// that had to be fetched say more about an answer than the tag they are for, but
// that the tag is from memory says more than either.
func (q *request) merge(d oci.Descriptor, c *oci.Content) oci.Descriptor {
	if c.MediaType != "" {
		d.MediaType = c.MediaType
	}
	if c.Size >= 0 {
		d.Size = c.Size
	}
	if c.Data != nil {
		d.Data = c.Data
	}
	if q.outcome.Result == "" || c.Result != "" && c.Result != oci.Hit && q.outcome.Result != oci.Stale {
		q.outcome.Result = c.Result
	}
	if q.outcome.Warning == "" {
		q.outcome.Warning = c.Warning
	}
	return d
}

// sendManifest answers a GET. Nearly all come without Range or conditions.
func (q *request) sendManifest(d oci.Descriptor) error {
	q.lookAt(d)
	kind := mediaType(d)
	q.image = !oci.IsIndex(kind)
	q.describe(d.Digest, kind)
	if q.plain() {
		return q.sendData(d.Data)
	}
	return q.sendContent(&oci.Content{Descriptor: d}, q.spans(d.Digest))
}

// mediaType is what d is sent as: without parameters, which clients do not
// expect behind a manifest's type.
func mediaType(d oci.Descriptor) string {
	kind, _, _ := strings.Cut(d.MediaType, ";")
	if kind = strings.TrimSpace(kind); kind != "" {
		return kind
	}
	return oci.MediaTypeBlob
}
