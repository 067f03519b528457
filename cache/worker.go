package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"

	"berth/cache/store"
	"berth/oci"
)

// errParked ends a worker whose fill has no readers left.
var errParked = errors.New("parked")

// run fetches until the object is published, nobody wants it, or it cannot be
// had. A small object whose bytes are wrong is fetched once more before anyone
// has seen them.
func (f *fill) run() {
	ctx, cancel := context.WithCancel(f.c.ctx)
	defer cancel()
	err := f.fetch(ctx)
	if errors.Is(err, store.ErrMismatch) && f.startOver() {
		f.c.suspectBytes(f.key)
		err = f.fetch(ctx)
	}
	for errors.Is(err, errParked) {
		if f.park() {
			return
		}
		err = f.fetch(ctx) // somebody came meanwhile
	}
	switch {
	case errors.Is(err, store.ErrMismatch):
		f.c.suspectBytes(f.key)
		err = corrupt(f.key.digest, err)
	case err == nil:
		f.c.cleared(f.key)
	}
	f.end(err)
}

func corrupt(d oci.Digest, err error) error {
	if _, done := errors.AsType[*oci.Error](err); done {
		return err
	}
	return &oci.Error{
		Class: oci.Corrupt, Err: err, RetryAfter: 10 * time.Second,
		Message: fmt.Sprintf("the registry sent wrong bytes for %s; nothing of them was kept: try again", d),
	}
}

// startOver drops the blocks if nobody can have read from them.
func (f *fill) startOver() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isOpen() {
		return false
	}
	f.blocks.Discard()
	f.blocks = nil
	for _, sp := range f.sponsors {
		sp.setWay(nil) // the copy behind it is the bad one
	}
	return true
}

// fetch is one way from nothing, or from what was parked, to a published blob.
func (f *fill) fetch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var hashing sync.WaitGroup
	defer hashing.Wait()
	defer cancel()
	f.stopBy(cancel)
	content, sp, err := f.first(ctx)
	if err != nil {
		return err
	}
	var hashErr error
	hashed := make(chan struct{})
	hashing.Go(func() {
		defer close(hashed)
		if hashErr = f.blocks.Hash(ctx, f.proven); hashErr != nil && ctx.Err() == nil {
			hashErr = f.unsound(hashErr)
			f.stop(hashErr)
		}
	})
	f.openUnlessSmall()
	if err := f.download(ctx, content, sp); err != nil {
		return cmp.Or(f.blocks.Err(), err) // why it was stopped says more than that it was
	}
	<-hashed
	if hashErr != nil {
		return hashErr
	}
	return f.finish()
}

// stopBy says how stop ends the fetch that begins.
func (f *fill) stopBy(cancel context.CancelFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopFetching = cancel
}

// stop ends the fetching with err. Of wrong bytes no more go out from now on;
// the readers are told by end, when all that the fill holds is given back.
func (f *fill) stop(err error) {
	f.blocks.Stop(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopFetching()
}

// proven gives back what was promised: the bytes are real, and a client that has
// the last of them asks for its next layer, which may need the share.
func (f *fill) proven() {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.release()
}

// unsound is why the hash came to nothing: the bytes are wrong, somebody has
// given the blob up, or the disk does not give back what it took.
func (f *fill) unsound(err error) error {
	switch {
	case errors.Is(err, store.ErrMismatch):
		return corrupt(f.key.digest, err)
	case f.blocks.Err() != nil:
		return err
	}
	return f.failedDisk(err)
}

// finish lets waiting readers go on from verified bytes and publishes them. A
// manifest that is none, or that names another type than its header did, is
// not kept: one digest must mean one thing.
func (f *fill) finish() error {
	if f.key.kind == oci.Manifest {
		if err := f.checkManifest(); err != nil {
			return err
		}
	}
	f.openUp()
	if err := f.blocks.Publish(); err != nil {
		// Readers have their bytes; only the cache goes without.
		f.c.diskTrouble(err)
	} else {
		f.c.diskWorks()
	}
	return nil
}

func (f *fill) checkManifest() error {
	file, err := f.blocks.OpenReader()
	if err != nil {
		return f.failedDisk(err)
	}
	defer closeBody(file)
	data, err := io.ReadAll(io.LimitReader(file, maxManifest))
	if err != nil {
		return f.failedDisk(err)
	}
	got, err := manifestType(data)
	if err == nil && strings.HasPrefix(f.mediaType, "application/vnd.") && f.mediaType != got {
		err = fmt.Errorf("it came as %s and says that it is %s", f.mediaType, got)
	}
	if err != nil {
		return &oci.Error{Class: oci.UpstreamError, Err: err, Message: fmt.Sprintf("%s is no image manifest or index", f.key.digest)}
	}
	return nil
}

// openUnlessSmall lets readers start, but for small objects: those are
// verified first.
func (f *fill) openUnlessSmall() {
	if size := f.blocks.Size(); f.key.kind == oci.Blob && (size < 0 || size > verifyFirst) {
		f.openUp()
	}
}

// openUp lets readers start.
func (f *fill) openUp() {
	if !f.isOpen() {
		close(f.opened)
	}
}

// first gets the answer that tells the size, and makes the blocks, unless an
// earlier fill has left them. For one that goes on there is nothing to do. A nil
// content, or one without a body: only the size was asked.
func (f *fill) first(ctx context.Context) (*oci.Content, *sponsor, error) {
	if f.blocks != nil {
		return nil, nil, nil
	}
	f.resume()
	for {
		sp, err := f.pick(nil)
		if err != nil {
			return nil, nil, err
		}
		content, err := f.firstOf(ctx, sp)
		if err == nil {
			switch {
			case f.blocks == nil:
				return content, sp, f.makeBlocks(content)
			case f.fits(content):
				return content, sp, nil
			}
			continue
		}
		if !strikes(err) {
			return nil, nil, err
		}
		f.strike(sp, err)
	}
}

// firstOf asks for the beginning, or, where all readers want something further
// on, for the size alone.
func (f *fill) firstOf(ctx context.Context, sp *sponsor) (content *oci.Content, err error) {
	switch {
	case f.blocks != nil:
		return f.firstMissing(ctx, sp)
	case f.key.kind == oci.Manifest:
		return sp.open(ctx, oci.Range{})
	case f.wantsBeginning():
		content, err = sp.open(ctx, oci.Range{Length: runLength})
	default:
		content, err = sp.stat(ctx)
	}
	if err != nil || content.Size >= 0 || content.Body != nil && content.Length < 0 {
		return content, err
	}
	if content.Body != nil { // a part, and it does not say of how much
		closeBody(content.Body)
	}
	return sp.open(ctx, oci.Range{}) // one stream, then
}

func (f *fill) wantsBeginning() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for rd := range f.readers {
		if rd.want.Start == 0 && !rd.want.Bounded() {
			return true
		}
	}
	return f.whole && len(f.readers) == 0
}

func (f *fill) makeBlocks(content *oci.Content) error {
	if f.key.kind == oci.Manifest && content.Size > maxManifest {
		closeBody(content.Body)
		return &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("the manifest %s has %d bytes; the limit is %d", f.key.digest, content.Size, maxManifest)}
	}
	if !f.promise(content.Size) {
		if content.Body != nil {
			closeBody(content.Body)
		}
		f.c.noRoom(PastShare, content.Size)
		return fmt.Errorf("%w: %d bytes from an organisation's own registry", errDisk, content.Size)
	}
	blocks, err := f.c.store.NewBlocks(f.key.origin, f.key.digest, content.Size)
	if err != nil {
		if content.Body != nil {
			closeBody(content.Body)
		}
		return f.failedDisk(err)
	}
	f.c.hadRoom(content.Size)
	f.setBlocks(blocks, content.MediaType)
	return nil
}

func (f *fill) setBlocks(b *store.Blocks, mediaType string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocks, f.mediaType = b, mediaType
}

// pick chooses a sponsor: not one that was struck, one with readers if there
// is one, and the one used last if it still serves.
func (f *fill) pick(last *sponsor) (*sponsor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last != nil && last.live() && last.readers > 0 {
		return last, nil
	}
	var best *sponsor
	var lastErr error
	for _, sp := range f.sponsors {
		switch {
		case !sp.live():
			lastErr = sp.err
		case best == nil || best.readers == 0 && sp.readers > 0:
			best = sp
		}
	}
	if best == nil {
		return nil, lastErr
	}
	f.tellStruckLocked()
	return best, nil
}

// strike takes a refused sponsor out: its readers that have no answer yet get
// err, the others read on. Those of the last one get it from end, since the fill
// goes with it.
func (f *fill) strike(sp *sponsor, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sp.err == nil { // two workers may be refused at once
		sp.err = err
	}
	if slices.ContainsFunc(f.sponsors, (*sponsor).live) {
		f.tellStruckLocked()
	}
}

func (f *fill) tellStruck() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tellStruckLocked()
}

// tellStruckLocked wakes the readers of the sponsors that were refused.
func (f *fill) tellStruckLocked() {
	for _, sp := range f.sponsors {
		if !sp.live() && !sp.woken {
			sp.woken = true
			close(sp.struck)
		}
	}
}

// download fetches run after run until every byte is there. Trouble on the way
// is tried again from where it stopped, as long as there is progress.
func (f *fill) download(ctx context.Context, content *oci.Content, sp *sponsor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.dismiss()
	defer cancel()
	f.employ(ctx)
	wait, progress := newBackoff(), f.blocks.Have()
	var run *store.Run
	if content != nil && content.Body != nil { // else only the size was asked
		run = f.blocks.Claim(content.Offset, content.End())
		f.firstWorkerAt(run.End())
	}
	for {
		var err error
		if run == nil {
			if run, err = f.next(ctx); run == nil {
				return err
			}
			f.firstWorkerAt(run.End())
			content, sp, err = f.ask(ctx, sp, run)
		}
		if err == nil {
			err = f.stream(content, run)
		}
		f.firstWorkerAt(0)
		run.Release()
		run = nil
		if have := f.blocks.Have(); have-progress >= leastProgress {
			wait, progress = newBackoff(), have
		}
		if err = f.again(ctx, sp, err, wait); err != nil {
			return err
		}
	}
}

// leastProgress is what a few tries must bring together for there to be more of
// them: an upstream that cuts every answer after some bytes would else be asked
// for ever.
const leastProgress = 256 << 10

func newBackoff() retry.Backoff {
	return retry.WithMaxRetries(5, retry.WithJitterPercent(30, retry.NewExponential(200*time.Millisecond)))
}

// again decides after a request whether there is another one: it returns nil
// to go on, at once or after a pause.
func (f *fill) again(ctx context.Context, sp *sponsor, err error, wait retry.Backoff) error {
	switch {
	case err == nil:
		return f.blocks.Err()
	case errors.Is(err, errDisk):
		return f.failedDisk(err)
	case errors.Is(err, store.ErrMismatch), ctx.Err() != nil, f.blocks.Size() < 0:
		return err // without a length there is nothing to go on from
	case sp != nil && strikes(err):
		f.strike(sp, err)
		_, err := f.pick(nil)
		return err
	}
	pause, stop := wait.Next()
	if stop {
		return err
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask opens run upstream as one of the sponsors.
func (f *fill) ask(ctx context.Context, last *sponsor, run *store.Run) (*oci.Content, *sponsor, error) {
	sp, err := f.pick(last)
	if err != nil {
		return nil, nil, err
	}
	content, err := sp.open(ctx, oci.Range{Start: run.Pos(), Length: run.End() - run.Pos()})
	if err != nil {
		return nil, sp, err
	}
	if content.Size >= 0 && content.Size != f.blocks.Size() {
		closeBody(content.Body)
		return nil, sp, fmt.Errorf("the size changed from %d to %d: %w", f.blocks.Size(), content.Size, store.ErrMismatch)
	}
	return content, sp, nil
}

const copyBuffer = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// stream writes one upstream answer into the blocks. A registry that ignores
// ranges sends everything: then there is one stream, from the start.
func (f *fill) stream(content *oci.Content, run *store.Run) error {
	defer closeBody(content.Body)
	if content.Offset != run.Pos() {
		f.oneStream()
		run = f.blocks.Claim(content.Offset, content.End())
		defer run.Release()
	}
	buf, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	pace := newPace()
	for !run.Done() {
		n, err := content.Body.Read(*buf)
		pace.read(n)
		if werr := f.write(run, (*buf)[:n]); werr != nil {
			return werr
		}
		if pace.slow() {
			f.hire()
		}
		switch {
		case err == io.EOF && run.End() < 0:
			if run.Pos() < f.blocks.Size() { // an earlier answer said how much there is
				return io.ErrUnexpectedEOF
			}
			f.blocks.End()
			return nil
		case err == io.EOF && !run.Done():
			return io.ErrUnexpectedEOF
		case err != nil && err != io.EOF:
			return err
		}
	}
	return nil
}

func (f *fill) write(run *store.Run, p []byte) error {
	_, err := run.Write(p)
	switch {
	case err == nil, errors.Is(err, store.ErrMismatch), err == f.blocks.Err():
		return err
	}
	return diskError(err)
}

// next waits for the next run of bytes that somebody wants, and claims it. No
// run and no error: all bytes are there.
func (f *fill) next(ctx context.Context) (*store.Run, error) {
	for {
		idle := f.idle()
		if idle >= f.c.o.ParkAfter {
			return nil, errParked
		}
		if err := f.blocks.Err(); err != nil {
			return nil, err
		}
		if run, ok := f.demand(); ok {
			return run, nil
		}
		if f.blocks.Have() == f.blocks.Size() {
			return nil, nil
		}
		if err := f.pause(ctx, f.c.o.ParkAfter-idle); err != nil {
			return nil, err
		}
	}
}

// pause waits for a kick, at most for d.
func (f *fill) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-f.kick:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// idle is how long the fill has had no reader.
func (f *fill) idle() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) > 0 {
		return 0
	}
	return time.Since(f.idleSince)
}
