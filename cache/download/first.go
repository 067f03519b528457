package download

import (
	"context"

	"berth/cache/store"
	"berth/oci"
)

// firstAnswer gets the answer that tells the size, and makes the blocks, unless a
// partial was left by an earlier download. For a download that goes on there is
// nothing to ask. A nil content, or one without a body: only the size was asked.
func (d *Download) firstAnswer(ctx context.Context) (*oci.Content, *requester, error) {
	if d.blocks != nil {
		return nil, nil, nil
	}
	d.resume()
	for {
		rq, err := d.pick(nil)
		if err != nil {
			return nil, nil, err
		}
		content, err := d.askFirst(ctx, rq)
		switch {
		case err != nil && rejects(err):
			d.reject(rq, err)
		case err != nil && ctx.Err() == nil && d.failedAs(rq): // it may be about the one alone
		case err != nil:
			return nil, nil, err
		case d.blocks == nil:
			d.from(rq)
			return content, rq, d.makeBlocks(content)
		case content.Size == d.blocks.Size():
			d.from(rq)
			return content, rq, nil
		default: // another size than the partial's, which is then worth nothing
			closeContent(content)
			d.blocks.Discard()
			d.setBlocks(nil, false)
		}
	}
}

// resume takes up the partial that an earlier download left, in this process or
// the one before. It says nothing about rights: readers wait until the registry
// has answered a requester.
func (d *Download) resume() {
	if blocks, ok := d.table.o.Store().Resume(d.key.Folder(), d.key.Repo, d.key.Digest); ok {
		d.setBlocks(blocks, true)
	}
}

func (d *Download) setBlocks(b *store.Blocks, resumed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blocks, d.resumed = b, resumed
	if d.share != nil && b != nil {
		d.share.Grows(b)
	}
}

// askFirst asks for what is most urgent: of a partial, for the first part that is
// missing; of a new blob for its beginning, or, where all readers want something
// further on, for the size alone.
func (d *Download) askFirst(ctx context.Context, rq *requester) (content *oci.Content, err error) {
	asker := rq.want.Asker
	switch {
	case d.blocks != nil:
		run, ok := d.mostUrgent()
		if !ok {
			return asker.Stat(ctx)
		}
		run.Release() // it is claimed by the answer
		return asker.Open(ctx, oci.Range{Start: run.Pos(), Length: run.End() - run.Pos()})
	case d.wantsBeginning():
		content, err = asker.Open(ctx, oci.Range{Length: runLength})
	default:
		content, err = asker.Stat(ctx)
	}
	if err != nil || content.Size >= 0 || content.Body != nil && content.Length < 0 {
		return content, err
	}
	closeContent(content) // a part, and it does not say of how much
	return asker.Open(ctx, oci.Range{})
}

func (d *Download) wantsBeginning() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for rd := range d.readers {
		if rd.want.Start == 0 && !rd.want.Bounded() {
			return true
		}
	}
	return d.whole && len(d.readers) == 0
}

func (d *Download) makeBlocks(content *oci.Content) error {
	blocks, err := d.table.o.Store().NewBlocks(d.account, d.key.Folder(), d.key.Digest, content.Size)
	if err != nil {
		closeContent(content)
		return d.failedDisk(content.Size, err)
	}
	d.table.o.Report.Reserved(d.key, content.Size)
	d.setBlocks(blocks, false)
	return nil
}
