package download

import (
	"context"
	"errors"
	"sync"
	"time"

	"berth/cache/store"
)

// largeBlob is the size from which a blob may have more than one worker.
const largeBlob = 32 << 20

// pool is the workers of a download besides its primary one, which is the
// goroutine of run. It is guarded by the download's lock.
type pool struct {
	// ctx is what extra workers run under; nil: none may be added. cancel ends all
	// workers, with the reason.
	ctx    context.Context
	cancel context.CancelCauseFunc
	extras int
	// single: the registry ignores ranges, so more workers would each get everything.
	single bool
	// primaryEnd is where the primary worker's run ends; 0 while it has none.
	primaryEnd int64
	running    sync.WaitGroup
}

// startPool lets workers be added while ctx lasts.
func (d *Download) startPool(ctx context.Context, cancel context.CancelCauseFunc) {
	d.table.connections.addPrimary(d.key.Origin, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool.open(ctx, cancel)
}

func (p *pool) open(ctx context.Context, cancel context.CancelCauseFunc) {
	p.ctx, p.cancel = ctx, cancel
}

func (p *pool) close() { p.ctx = nil }

// stopPool waits for the extra workers. Their ctx has ended.
func (d *Download) stopPool() {
	d.mu.Lock()
	d.pool.close()
	d.mu.Unlock()
	d.pool.running.Wait()
	d.table.connections.addPrimary(d.key.Origin, -1)
}

func (d *Download) singleStream() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool.single = true
}

// addWorker starts another worker, if the blob is large enough and a connection
// is left that no other download needs for its first.
func (d *Download) addWorker() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.blocks.Size() >= largeBlob {
		d.addWorkerUpTo(d.table.o.Parallel - 1)
	}
}

// addWorkerUpTo starts another worker unless there are most extra ones. Caller
// holds the lock.
func (d *Download) addWorkerUpTo(most int) {
	ctx := d.pool.ctx
	if ctx == nil || ctx.Err() != nil || d.pool.single || d.pool.extras >= most || !d.table.connections.takeExtra(d.key.Origin) {
		return
	}
	d.pool.extras++
	cancel := d.pool.cancel
	d.pool.running.Go(func() {
		d.runExtra(ctx, cancel)
		d.table.connections.giveExtra(d.key.Origin)
		d.mu.Lock()
		d.pool.extras--
		d.mu.Unlock()
		d.nudge() // the primary worker may have waited for what this one had claimed
	})
}

// prioritise starts a worker for a reader that waits for what nobody fetches,
// unless the primary worker is about to: it is between two runs, or its run ends
// there. If all workers are busy it starts one above the limit, and the next
// worker to finish its run exits: a run takes seconds, and the reader of a footer
// wants a few bytes. Caller holds the lock.
func (d *Download) prioritise(rd *Reader) {
	if d.pool.ctx == nil || d.blocks == nil || d.pool.primaryEnd == 0 {
		return
	}
	run, ok := rd.claimAtPosition(d.blocks, d.runLimit())
	if !ok {
		return
	}
	run.Release() // the new worker claims it: the most urgent comes first
	if run.Pos()/store.BlockSize != d.pool.primaryEnd/store.BlockSize && d.table.o.Parallel > 1 {
		d.addWorkerUpTo(d.table.o.Parallel)
	}
}

// primaryAt notes where the primary worker's run ends; 0: it has none. Readers
// that came to wait while it had none are looked at again.
func (d *Download) primaryAt(end int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool.primaryEnd = end
	for rd := range d.readers {
		if rd.waiting {
			d.prioritise(rd)
		}
	}
}

// overLimit reports whether prioritise has added a worker too many.
func (d *Download) overLimit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pool.extras >= d.table.o.Parallel
}

// runExtra works as long as there is something to do, the pool is within its
// limit and no other download lacks a connection. It drops its errors: what it
// leaves, the primary worker fetches again. Only wrong bytes end the download.
func (d *Download) runExtra(ctx context.Context, cancel context.CancelCauseFunc) {
	var rq *requester
	for ctx.Err() == nil && d.table.connections.extraMayStay(d.key.Origin) {
		run, ok := d.mostUrgent()
		if !ok {
			return
		}
		var err error
		rq, err = d.fetchRun(ctx, rq, run)
		run.Release()
		switch {
		case errors.Is(err, store.ErrMismatch):
			cancel(Corrupt(d.key.Digest, err))
		case err != nil && rq != nil && rejects(err):
			d.reject(rq, err)
		}
		if err != nil || d.overLimit() {
			return
		}
	}
}

// fetchRun fetches one run as last, or as another requester.
func (d *Download) fetchRun(ctx context.Context, last *requester, run *store.Run) (*requester, error) {
	content, rq, err := d.ask(ctx, last, run)
	if err != nil {
		return rq, err
	}
	return rq, d.stream(content, run)
}

// connections counts the workers at each origin, so that every download's primary
// worker goes before another's extra ones.
type connections struct {
	limit int

	mu sync.Mutex
	at map[string]*workers
}

// workers at one origin.
type workers struct{ primary, extra int }

func newConnections(limit int) connections {
	return connections{limit: limit, at: map[string]*workers{}}
}

// change applies do to the workers at origin, and forgets origins without any.
func (c *connections) change(origin string, do func(*workers)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.at[origin]
	if w == nil {
		w = &workers{}
		c.at[origin] = w
	}
	if do(w); *w == (workers{}) {
		delete(c.at, origin)
	}
}

func (c *connections) addPrimary(origin string, n int) {
	c.change(origin, func(w *workers) { w.primary += n })
}

// takeExtra takes a connection for an extra worker, if one is left.
func (c *connections) takeExtra(origin string) (ok bool) {
	c.change(origin, func(w *workers) {
		if ok = w.primary+w.extra < c.limit; ok {
			w.extra++
		}
	})
	return ok
}

func (c *connections) giveExtra(origin string) {
	c.change(origin, func(w *workers) { w.extra-- })
}

// extraMayStay reports whether no primary worker lacks a connection.
func (c *connections) extraMayStay(origin string) (ok bool) {
	c.change(origin, func(w *workers) { ok = w.primary+w.extra <= c.limit })
	return ok
}

// pace tells whether a worker's connection is what holds the download up: the
// worker waits for the network most of the time. A fast connection keeps it busy
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
