package cache

import (
	"context"

	"berth/oci"
)

// resume takes up what an earlier fill has left of the blob, in this process or
// the one before. It says nothing about rights: readers wait until the registry
// has answered a sponsor of theirs. What is beyond an organisation's share stays
// where it is: the first answer then goes past the cache.
func (f *fill) resume() {
	if f.key.kind != oci.Blob {
		return
	}
	if size, ok := f.c.store.Left(f.key.origin, f.key.digest); !ok || !f.promise(size) {
		return
	}
	if blocks, ok := f.c.store.Resume(f.key.origin, f.key.digest); ok {
		f.setBlocks(blocks, "")
	}
}

// firstMissing asks for the most urgent part that is missing; where nothing is,
// for as little as proves the sponsor's right.
func (f *fill) firstMissing(ctx context.Context, sp *sponsor) (*oci.Content, error) {
	run, ok := f.demand()
	if !ok {
		return sp.stat(ctx)
	}
	run.Release() // it is claimed by the answer
	return sp.open(ctx, oci.Range{Start: run.Pos(), Length: run.End() - run.Pos()})
}

// fits says whether content is of the blob that the blocks are of. If not, they
// are worth nothing.
func (f *fill) fits(content *oci.Content) bool {
	if content.Size == f.blocks.Size() {
		return true
	}
	if content.Body != nil {
		closeBody(content.Body)
	}
	f.blocks.Discard()
	f.setBlocks(nil, "")
	return false
}
