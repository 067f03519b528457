package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"berth/cache/store"
)

// largeFill is the size from which a blob may have more than one worker.
const largeFill = 32 << 20

// employ lets workers be hired while ctx lasts.
func (f *fill) employ(ctx context.Context) {
	f.c.connections.firstStarts()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hiring = ctx
}

// dismiss ends hiring and waits for those who work. Their ctx has ended.
func (f *fill) dismiss() {
	f.mu.Lock()
	f.hiring = nil
	f.mu.Unlock()
	f.workers.Wait()
	f.c.connections.firstEnds()
}

// oneStream is for a registry that ignores ranges: more workers would each get
// everything.
func (f *fill) oneStream() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.single = true
}

// hire starts another worker, if the fill is worth it and connections are left
// that no other fill needs for its first.
func (f *fill) hire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blocks.Size() >= largeFill {
		f.hireLocked(f.c.o.Parallel - 1)
	}
}

// hireLocked starts another worker, unless there are most besides the first.
func (f *fill) hireLocked(most int) {
	ctx := f.hiring
	if ctx == nil || ctx.Err() != nil || f.single || f.extras >= most || !f.c.connections.extraStarts() {
		return
	}
	f.extras++
	f.workers.Go(func() {
		f.extra(ctx)
		f.c.connections.extraEnds()
		f.mu.Lock()
		f.extras--
		f.mu.Unlock()
		f.wake() // the first worker may have waited for what this one had claimed
	})
}

// hurry starts a worker for a reader that waits for what nobody fetches, unless
// the first worker is about to: it is between two runs, or its run ends there.
// Where all that there may be are busy it is one too many, until one has ended its
// run: a run takes seconds, and the reader of a footer wants a few bytes.
func (f *fill) hurry(rd *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hurryLocked(rd)
}

func (f *fill) hurryLocked(rd *reader) {
	if f.hiring == nil || f.blocks == nil || f.runEnd == 0 {
		return
	}
	run, ok := rd.stuck(f.blocks, f.runLimit())
	if !ok {
		return
	}
	run.Release() // the worker takes it: the most urgent is its first
	if run.Pos()/store.BlockSize != f.runEnd/store.BlockSize && f.c.o.Parallel > 1 {
		f.hireLocked(f.c.o.Parallel)
	}
}

// crowded says that there is a worker too many, see hurry.
func (f *fill) crowded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.extras >= f.c.o.Parallel
}

// firstWorkerAt notes where the first worker's run ends; 0: it has none. Readers
// that came to wait while it had none are looked at again.
func (f *fill) firstWorkerAt(end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runEnd = end
	for rd := range f.readers {
		if rd.waiting {
			f.hurryLocked(rd)
		}
	}
}

// extra works as long as there is something to do, nobody is one too many and no
// other fill lacks a connection. Its trouble is nobody's: what it leaves, the first
// worker takes.
func (f *fill) extra(ctx context.Context) {
	var sp *sponsor
	for ctx.Err() == nil && f.c.connections.extraMayStay() {
		run, ok := f.demand()
		if !ok {
			return
		}
		err := f.extraRun(ctx, &sp, run)
		run.Release()
		if err != nil {
			if sp != nil && strikes(err) {
				f.strike(sp, err)
			}
			if errors.Is(err, store.ErrMismatch) {
				f.stop(corrupt(f.key.digest, err))
			}
			return
		}
		if f.crowded() {
			return
		}
	}
}

func (f *fill) extraRun(ctx context.Context, sp **sponsor, run *store.Run) error {
	content, asked, err := f.ask(ctx, *sp, run)
	*sp = asked
	if err != nil {
		return err
	}
	return f.stream(content, run)
}

// connections counts workers, so that every fill's first one goes before
// another's extra ones. It has its own mutex: a fill asks while it is locked,
// and the cache looks at fills while it is.
type connections struct {
	limit int

	mu             sync.Mutex
	firsts, extras int
}

func (c *connections) firstStarts() { c.add(1, 0) }
func (c *connections) firstEnds()   { c.add(-1, 0) }
func (c *connections) extraEnds()   { c.add(0, -1) }

func (c *connections) add(firsts, extras int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.firsts += firsts
	c.extras += extras
}

// extraStarts says whether there is room for another extra one, and takes it.
func (c *connections) extraStarts() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.firsts+c.extras >= c.limit {
		return false
	}
	c.extras++
	return true
}

// extraMayStay says whether no first one lacks room.
func (c *connections) extraMayStay() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firsts+c.extras <= c.limit
}

// pace tells whether a worker's connection is what holds the fill up: it waits
// for the network most of the time. A fast connection keeps the worker busy
// with writing, and a second one would gain nothing.
type pace struct {
	since, last time.Time
	waited      time.Duration
	got         int64
}

const (
	paceBytes = 1 << 20 // how much is looked at before judging
	paceTime  = 50 * time.Millisecond
)

func newPace() *pace {
	now := time.Now()
	return &pace{since: now, last: now}
}

// read notes that n bytes came, after waiting since the last call of slow.
func (p *pace) read(n int) {
	p.waited += time.Since(p.last)
	p.got += int64(n)
}

// slow judges, once enough was seen, and starts anew.
func (p *pace) slow() bool {
	now := time.Now()
	p.last = now
	total := now.Sub(p.since)
	if p.got < paceBytes && total < paceTime {
		return false
	}
	waiting := p.waited > total/2
	*p = pace{since: now, last: now}
	return waiting
}
