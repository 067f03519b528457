package cache

import (
	"context"
	"io"

	"berth/fleet"
	"berth/oci"
)

// openMixed opens a part of a blob, of which some bytes may come from the fleet. Who was
// not shown to have the right to it asks the registry before any of them counts.
func (a *asker) openMixed(ctx context.Context, r oci.Range, object *fleet.Object) (*oci.Content, error) {
	end := object.Size()
	if r.Length > 0 {
		end = min(r.Start+r.Length, end)
	}
	if r.Start < 0 || r.Start >= end {
		return a.openOrigin(ctx, r)
	}
	b := &mixedBody{ctx: ctx, a: a, object: object, pos: r.Start, end: end}
	step, err := object.Next(ctx, r.Start, end)
	if err != nil {
		return nil, err
	}
	content := &oci.Content{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeBlob, Digest: a.object.Digest, Size: object.Size()},
		Outcome:    oci.Outcome{Result: oci.Pass}, Offset: r.Start, Length: end - r.Start, Body: b,
	}
	if step.Data != nil {
		b.data, b.release = step.Data, step.Release
		if !a.Proven() {
			step.Yield()
			outcome, err := a.Admit(ctx)
			if err != nil {
				_ = b.Close() // there is no body yet
				return nil, err
			}
			a.warn(outcome.Warning)
		}
		return content, nil
	}
	first, err := a.openOrigin(ctx, oci.Range{Start: r.Start, Length: step.Until - r.Start})
	if err != nil {
		object.Missed(r.Start, step.Until)
		return nil, err
	}
	if first.Size != object.Size() || first.Offset != r.Start || first.End() != step.Until {
		object.Leave() // it is another blob than the manifest says, or comes in one piece only
		return first, nil
	}
	b.body, b.until = first.Body, step.Until
	content.Asked = first.Asked
	return content, nil
}

// mixedBody reads on from the fleet and from the registry in turn.
type mixedBody struct {
	ctx      context.Context
	a        *asker
	object   *fleet.Object
	pos, end int64

	data    []byte // from the fleet
	release func() // gives back the memory that data is in; nil: it has none
	body    io.ReadCloser
	until   int64 // where body ends
}

func (b *mixedBody) Read(p []byte) (int, error) {
	for {
		switch {
		case b.pos >= b.end:
			return 0, io.EOF
		case len(b.data) > 0:
			n := copy(p, b.data[:min(int64(len(b.data)), b.end-b.pos)])
			b.data = b.data[n:]
			b.pos += int64(n)
			return n, nil
		case b.body != nil && b.pos < b.until:
			n, err := b.body.Read(p[:min(int64(len(p)), b.until-b.pos)])
			b.object.Moved(n)
			b.pos += int64(n)
			if err == io.EOF && b.pos < b.until {
				err = io.ErrUnexpectedEOF
			} else if err == io.EOF {
				err = nil
			}
			if n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if err := b.next(); err != nil {
			return 0, err
		}
	}
}

// next goes on where the last piece ended.
func (b *mixedBody) next() error {
	if err := b.Close(); err != nil {
		return err
	}
	step, err := b.object.Next(b.ctx, b.pos, b.end)
	if err != nil || step.Data != nil {
		b.data, b.release = step.Data, step.Release
		return err
	}
	content, err := b.a.openOrigin(b.ctx, oci.Range{Start: b.pos, Length: step.Until - b.pos})
	if err != nil {
		b.object.Missed(b.pos, step.Until)
		return err
	}
	if content.Offset != b.pos || content.End() != step.Until {
		content.Close()
		b.object.Leave()
		return io.ErrUnexpectedEOF
	}
	b.body, b.until = content.Body, step.Until
	return nil
}

// Close ends the piece that is read.
func (b *mixedBody) Close() error {
	if b.release != nil {
		b.release()
		b.data, b.release = nil, nil
	}
	if b.body != nil {
		closeBody(b.body)
		b.object.Missed(b.pos, b.until)
		b.body = nil
	}
	return nil
}
