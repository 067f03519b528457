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
	// life is what extra workers run under; nil: none may be added.
	life   *lifetime
	extras int
	// single: the registry ignores ranges, so more workers would each get everything.
	single bool
	// primaryEnd is where the primary worker's run ends; 0 while it has none.
	primaryEnd int64
	running    sync.WaitGroup
}

// lifetime is a context, and its end for all workers, with the reason.
type lifetime struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// startPool lets workers be added while ctx lasts.
func (d *Download) startPool(ctx context.Context, cancel context.CancelCauseFunc) {
	d.table.connections.add(d.key.Origin, 1, 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool.life = &lifetime{ctx, cancel}
}

// stopPool waits for the extra workers. Their ctx has ended.
func (d *Download) stopPool() {
	d.mu.Lock()
	d.pool.life = nil
	d.mu.Unlock()
	d.pool.running.Wait()
	d.table.connections.add(d.key.Origin, -1, 0)
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
	life := d.pool.life
	if life == nil || life.ctx.Err() != nil || d.pool.single || d.pool.extras >= most || !d.table.connections.takeExtra(d.key.Origin) {
		return
	}
	d.pool.extras++
	d.pool.running.Go(func() {
		d.runExtra(life.ctx, life.cancel)
		d.table.connections.add(d.key.Origin, 0, -1)
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
	if d.pool.life == nil || d.blocks == nil || d.pool.primaryEnd == 0 {
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
		case err != nil && rq != nil && d.isOver(rq, err):
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
	at map[string]workers
}

// workers at one origin.
type workers struct{ primary, extra int }

// add counts workers, or fewer.
func (c *connections) add(origin string, primary, extra int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.at[origin]
	w.primary += primary
	w.extra += extra
	if c.at[origin] = w; w == (workers{}) {
		delete(c.at, origin)
	}
}

// takeExtra takes a connection for an extra worker, if one is left.
func (c *connections) takeExtra(origin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.at[origin]
	if w.primary+w.extra >= c.limit {
		return false
	}
	w.extra++
	c.at[origin] = w
	return true
}

// extraMayStay reports whether no primary worker lacks a connection.
func (c *connections) extraMayStay(origin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.at[origin]
	return w.primary+w.extra <= c.limit
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
