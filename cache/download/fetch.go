package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"

	"berth/cache/store"
	"berth/internal/pause"
	"berth/oci"
)

const (
	// VerifyFirst is the size up to which a blob is verified before its first byte
	// leaves, so that a bad copy can be fetched again unseen.
	VerifyFirst = 4 << 20
	// runLength is what one upstream request asks for at most.
	runLength = 16 << 20
	// leastProgress is what a few tries must bring together for there to be more of
	// them: an upstream that cuts every answer after some bytes would else be asked
	// for ever.
	leastProgress = 256 << 10
)

// errIdle ends a worker whose download has no readers left.
var errIdle = errors.New("nobody reads this download")

// run fetches until the blob is published, nobody wants it, or it cannot be had.
// A small blob whose bytes are wrong is fetched again before anyone has seen them:
// once more as the same requester, and then as others.
func (d *Download) run() {
	report := d.table.o.Report
	if d.share != nil {
		defer d.share.Over()
	}
	ctx := oci.Along(d.table.ctx, d.organisations)
	err := d.fetch(ctx)
	for copies := 1; errors.Is(err, store.ErrMismatch); copies++ {
		err = d.corrupt(err)
		if !d.mixed() { // else the registry has not sent all of it
			report.Corrupt(d.key, d.fetchedAs())
		}
		if d.share != nil {
			d.share.Wrong()
		}
		if !d.startOver(copies, err) {
			break
		}
		err = d.fetch(ctx)
	}
	for errors.Is(err, errIdle) {
		if d.move(Parked, nil) {
			return
		}
		err = d.fetch(ctx) // somebody came meanwhile
	}
	if err != nil {
		d.move(Failed, err)
		return
	}
	if !d.mixed() {
		report.Sound(d.key)
		if d.key.Scope != "" && !d.resumed { // what an earlier download has left may be of others
			d.blocks.DeliveredBy(d.key.Origin)
		}
	}
	d.delivered()
	d.move(Verified, nil)
	if err := d.blocks.Publish(); err != nil {
		report.DiskFailed(d.key, d.blocks.Size(), err) // readers have their bytes; only the cache goes without
	} else {
		report.Kept()
	}
	d.move(Done, nil)
}

// delivered tells whoever the bytes came for.
func (d *Download) delivered() {
	d.mu.Lock()
	sources := slices.Clone(d.sources)
	d.mu.Unlock()
	for _, rq := range sources {
		rq.want.Asker.Delivered()
	}
}

// corrupt is the error of bytes that were wrong, which says who sent them.
func (d *Download) corrupt(err error) error {
	if _, done := errors.AsType[*oci.Error](err); done || !d.mixed() {
		return Corrupt(d.key.Digest, err)
	}
	return &oci.Error{
		Class: oci.Corrupt, Err: err, RetryAfter: time.Second,
		Message: fmt.Sprintf("another node has shared wrong bytes for %s; nothing of them was kept: try again, they come from the registry then", d.key.Digest),
	}
}

// verifiesFirst says whether the blob, whose size is known, is verified before any of it
// leaves.
func (d *Download) verifiesFirst() bool {
	return d.blocks.Size() <= VerifyFirst || d.share != nil && d.share.Withheld()
}

// mixed says whether some of the bytes came from other nodes.
func (d *Download) mixed() bool { return d.share != nil && d.share.Mixed() }

// maxCopies is how many wrong copies one download fetches: two as one requester and one
// as others, who then agree.
const maxCopies = 3

// startOver drops the blocks, of which err says that they are wrong, if nobody can
// have read from them. Whoever got wrong bytes twice is not asked for any more: a
// registry may answer another account with the blob.
func (d *Download) startOver(copies int, err error) bool {
	d.mu.Lock()
	fetching, last := d.state == Fetching, d.sources
	d.mu.Unlock()
	if !fetching || copies == maxCopies {
		return false
	}
	if copies == 2 {
		for _, rq := range last {
			d.reject(rq, err)
		}
		if rq, _ := d.pick(nil); rq == nil {
			return false
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blocks.Discard()
	d.blocks, d.sources, d.resumed = nil, nil, false
	for _, rq := range d.requesters {
		rq.want.Asker.Restart()
	}
	return true
}

// from notes that a part of the blob comes for rq.
func (d *Download) from(rq *requester) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.sources, rq) {
		d.sources = append(d.sources, rq)
	}
}

// fetchedAs are the principals for whom all the bytes came; none where some were left
// by an earlier download.
func (d *Download) fetchedAs() []oci.Principal {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resumed {
		return nil
	}
	var principals []oci.Principal
	for _, rq := range d.sources {
		if !slices.Contains(principals, rq.want.Principal) {
			principals = append(principals, rq.want.Principal)
		}
	}
	return principals
}

// fetch is one way from nothing, or from what was parked, to verified bytes. The
// hash follows the front of what has come; when it ends badly, the workers end
// with its error.
func (d *Download) fetch(ctx context.Context) error {
	content, rq, err := d.firstAnswer(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var hashing sync.WaitGroup
	var hashed error
	hashing.Go(func() {
		if hashed = d.blocks.Hash(ctx); hashed != nil {
			hashed = d.unsound(ctx, hashed)
			cancel(hashed)
		}
	})
	if d.blocks.Size() < 0 || !d.verifiesFirst() {
		d.move(Open, nil)
	}
	err = d.work(ctx, cancel, content, rq)
	if err != nil {
		cancel(err)
	}
	hashing.Wait()
	cancel(nil)
	if err != nil {
		return err
	}
	return hashed
}

// unsound is why the hash came to nothing: the bytes are wrong, the workers have
// given up, or the disk does not give back what it took.
func (d *Download) unsound(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrMismatch):
		return d.corrupt(err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return d.failedDisk(d.blocks.Size(), err)
}

// failedDisk reports that the disk failed under a blob of this size (-1: the registry
// did not say), and is the error for those who cannot go past it any more.
func (d *Download) failedDisk(size int64, err error) error {
	d.table.o.Report.DiskFailed(d.key, size, err)
	return store.DiskError(err)
}

// work fetches run after run until every byte is there. Trouble on the way is
// tried again from where it stopped, as long as there is progress.
func (d *Download) work(ctx context.Context, cancel context.CancelCauseFunc, content *oci.Content, rq *requester) error {
	ctx, stop := context.WithCancel(ctx)
	d.startPool(ctx, cancel)
	defer d.stopPool()
	defer stop()
	wait, progress := newBackoff(), d.blocks.Have()
	var run *store.Run
	if content != nil && content.Body != nil { // else only the size was asked
		run = d.blocks.Claim(content.Offset, content.End())
		d.primaryAt(run.End())
	}
	for {
		var err error
		if run == nil {
			if run, err = d.nextRun(ctx); run == nil {
				return err
			}
			d.primaryAt(run.End())
			content, rq, err = d.ask(ctx, rq, run)
		}
		if err == nil {
			err = d.stream(content, run)
		}
		d.primaryAt(0)
		run.Release()
		run = nil
		if have := d.blocks.Have(); have-progress >= leastProgress {
			wait, progress = newBackoff(), have
		}
		if err = d.pauseBeforeRetry(ctx, rq, err, wait); err != nil {
			return err
		}
	}
}

func newBackoff() retry.Backoff {
	return retry.WithMaxRetries(5, retry.WithJitterPercent(30, retry.NewExponential(200*time.Millisecond)))
}

// pauseBeforeRetry decides after a request whether there is another one: it
// returns nil to go on, at once or after a pause.
func (d *Download) pauseBeforeRetry(ctx context.Context, rq *requester, err error, wait retry.Backoff) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case errors.Is(err, store.ErrDisk):
		return d.failedDisk(d.blocks.Size(), err)
	case errors.Is(err, store.ErrMismatch), d.blocks.Size() < 0:
		return err // without a length there is nothing to go on from
	case rq != nil && d.isOver(rq, err):
		d.reject(rq, err)
		_, err := d.pick(nil)
		return err
	}
	rest, stop := wait.Next()
	if stop {
		return err
	}
	return pause.For(ctx, rest)
}

// ask opens run upstream as one of the requesters.
func (d *Download) ask(ctx context.Context, last *requester, run *store.Run) (*oci.Content, *requester, error) {
	rq, err := d.pick(last)
	if err != nil {
		return nil, nil, err
	}
	content, err := rq.want.Asker.Open(ctx, oci.Range{Start: run.Pos(), Length: run.End() - run.Pos()})
	if err != nil {
		d.failedAs(rq)
		return nil, rq, err
	}
	if content.Size >= 0 && content.Size != d.blocks.Size() {
		closeContent(content)
		return nil, rq, fmt.Errorf("the size changed from %d to %d: %w", d.blocks.Size(), content.Size, store.ErrMismatch)
	}
	d.from(rq)
	return content, rq, nil
}

// stream writes one upstream answer into the blocks. A registry that ignores
// ranges sends everything: then there is one stream, from the start.
func (d *Download) stream(content *oci.Content, run *store.Run) error {
	defer closeContent(content)
	if content.Offset != run.Pos() {
		d.singleStream()
		run = d.blocks.Claim(content.Offset, content.End())
		defer run.Release()
	}
	buf, _ := d.table.buffers.Get().(*[]byte)
	defer d.table.buffers.Put(buf)
	all, pos := newGatherer(*buf, run.Pos(), func(p []byte) error { return d.write(run, p) }), run.Pos()
	for pace := newPace(); run.End() < 0 || pos < run.End(); {
		n, err := content.Body.Read(all.room())
		pace.read(n)
		pos += int64(n)
		if werr := all.took(n, err != nil || run.End() >= 0 && pos >= run.End()); werr != nil {
			return werr
		}
		if pace.slow() {
			d.addWorker()
		}
		switch {
		case err == io.EOF && run.End() < 0:
			if pos < d.blocks.Size() { // an earlier answer said how much there is
				return io.ErrUnexpectedEOF
			}
			d.blocks.End()
			return nil
		case err == io.EOF && pos < run.End():
			return io.ErrUnexpectedEOF
		case err != nil && err != io.EOF:
			return err
		}
	}
	return nil
}

func (d *Download) write(run *store.Run, p []byte) error {
	_, err := run.Write(p)
	switch {
	case err == nil, errors.Is(err, store.ErrMismatch), err == d.blocks.Err():
		return err
	}
	return store.DiskError(err)
}

// nextRun waits for the next run of bytes that somebody wants, and claims it. No
// run and no error: all bytes are there.
func (d *Download) nextRun(ctx context.Context) (*store.Run, error) {
	for {
		idle := d.idle()
		if idle >= d.table.o.ParkAfter {
			return nil, errIdle
		}
		if run, ok := d.mostUrgent(); ok {
			return run, nil
		}
		if d.blocks.Have() == d.blocks.Size() {
			return nil, nil
		}
		if _, err := pause.Until(ctx, d.wake, d.table.o.ParkAfter-idle); err != nil {
			return nil, err
		}
	}
}

// idle is how long the download has had no reader.
func (d *Download) idle() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.readers) > 0 {
		return 0
	}
	return time.Since(d.idleSince)
}

// closeContent ends an upstream answer that is not read to its end. What was
// read from it has been checked or dropped.
func closeContent(c *oci.Content) {
	if c.Body != nil {
		_ = c.Body.Close()
	}
}
