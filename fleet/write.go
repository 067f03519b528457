package fleet

import (
	"context"
	"crypto/sha256"
	"os"
	"slices"
	"time"

	"berth/fleet/coordinator"
	"berth/fleet/seal"
)

const (
	renewEvery = time.Second
	scanEvery  = 50 * time.Millisecond
	// maxFailures of the bucket in a row end the writing of an object.
	maxFailures = 2
)

// Grows says where the object grows from now on. Bytes that grew elsewhere before were
// dropped.
func (o *Object) Grows(f File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		o.withdraw()
	}
	o.file = f
}

// Over says that the download has ended. What it has brought is written to the end.
func (o *Object) Over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	o.over = true
	close(o.ended)
	if giveBack := o.giveBack; giveBack != nil {
		o.t.wg.Go(func() { _ = giveBack(o.t.ctx) }) // it ends by itself
	}
}

// keep starts the goroutine that keeps the lease and writes parts. Caller holds mu.
func (o *Object) keep() {
	if o.keeping || o.over {
		return
	}
	o.keeping = true
	o.t.wg.Go(func() {
		ctx, cancel := context.WithCancel(o.t.ctx)
		o.t.wg.Go(func() { o.renew(ctx) })
		o.write(ctx)
		cancel()
		o.release()
	})
}

// renew keeps the lease as long as bytes move, to this node or from it. While a part is on
// its way nothing else may move, for longer than a lease where the bucket is slow.
func (o *Object) renew(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	last := int64(-1)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		o.mu.Lock()
		now := o.moved.Load() + int64(o.written)
		o.mu.Unlock()
		if now == last && o.puts.Load() == 0 {
			continue
		}
		asked := time.Now()
		limited, cancel := context.WithTimeout(ctx, renewEvery)
		ours, err := o.t.o.Coordinator.Renew(limited, o.leased(), o.writing)
		cancel()
		o.mu.Lock()
		switch {
		case err != nil: // it runs out, and is taken again
		case ours:
			last, o.held = now, asked.Add(coordinator.LeaseTime)
		default:
			o.held = time.Time{}
		}
		o.mu.Unlock()
	}
}

// write puts part after part into the bucket as they are complete, and what the fleet
// lacks first.
func (o *Object) write(ctx context.Context) {
	tick := time.NewTicker(scanEvery)
	defer tick.Stop()
	ended := o.ended
	var file *os.File
	defer func() {
		if file != nil {
			_ = file.Close() // only read from
		}
	}()
	for failures := 0; failures < maxFailures; {
		part, grows, finished := o.nextPart()
		if finished {
			return
		}
		if part < 0 {
			select {
			case <-ended:
				ended = nil // once
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			continue
		}
		if file == nil {
			var err error
			if file, err = grows.OpenReader(); err != nil {
				return
			}
		}
		if err := o.put(ctx, file, part); err != nil {
			if ctx.Err() != nil {
				return
			}
			failures++
			o.t.o.Log.Debug("a part was not written to the fleet", "err", err)
			continue
		}
		failures = 0
	}
}

// nextPart is what to write next: -1 where that is not there yet. finished: there is
// nothing more to write.
func (o *Object) nextPart() (part int, file File, finished bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil || o.alone {
		return -1, nil, o.over || o.withdrawn
	}
	if o.written == len(o.parts) {
		return -1, o.file, o.over
	}
	second := -1
	for part, hash := range o.parts {
		if hash != (coordinator.Hash{}) {
			continue
		}
		from, to := seal.Range(part, o.size)
		if !o.file.Has(from, to) {
			continue
		}
		if len(o.at[part]) == 0 {
			return part, o.file, false
		}
		if second < 0 {
			second = part
		}
	}
	if o.over && !o.file.Verified() {
		return -1, nil, true // what is missing, the next holder fetches
	}
	if o.file.Verified() {
		return second, o.file, second < 0 && o.over
	}
	return -1, o.file, false
}

// put seals a part and writes it, and tells the others.
func (o *Object) put(ctx context.Context, file *os.File, part int) error {
	o.puts.Add(1)
	defer o.puts.Add(-1)
	select {
	case o.t.uploads <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-o.t.uploads }()
	from, to := seal.Range(part, o.size)
	memory, release := o.t.parts.get(to - from + seal.Overhead)
	plain := memory[seal.Before:][:to-from]
	if _, err := file.ReadAt(plain, from); err != nil {
		release(true)
		return err
	}
	n := o.names[0]
	sealed := n.scope.Seal(memory[:0], o.writing, n.Name, part, o.size, plain)
	if err := o.t.o.Bucket.Put(ctx, seal.ObjectKey(n.Name, o.writing, part), sealed); err != nil {
		release(false) // net/http may read on from the memory for a while
		return err
	}
	hash := sha256.Sum256(sealed)
	release(true)
	o.t.o.Metrics.bytes(Out, int(to-from))
	o.mu.Lock()
	alone := o.alone
	if !alone { // else it may be of bytes that were dropped meanwhile
		o.parts[part] = hash
		o.written++
	}
	o.mu.Unlock()
	if alone {
		return nil
	}
	err := o.publish(ctx)
	o.settle(part) // it is retried with the next part
	return err
}

// publish tells the others which parts are there: all of them, and that they match the
// digest, where that is so.
func (o *Object) publish(ctx context.Context) error {
	o.mu.Lock()
	r := coordinator.Record{State: coordinator.Writing, Writing: o.writing, Size: o.size, Parts: slices.Clone(o.parts)}
	if o.written == len(o.parts) && o.file != nil && o.file.Verified() {
		r.State = coordinator.Done
	}
	o.mu.Unlock()
	return o.t.o.Coordinator.Publish(ctx, o.names[0].Object, r)
}

// release ends the writing: with a record of all parts, if all are there and match, or of
// none, if they are withdrawn.
func (o *Object) release() {
	o.mu.Lock()
	tell := o.written > 0 || o.withdrawn
	o.held, o.keeping, o.withdrawn = time.Time{}, false, false
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(o.t.ctx, o.t.o.Patience)
	defer cancel()
	if tell {
		if err := o.publish(ctx); err != nil {
			o.t.o.Log.Debug("what there is of an object is not known to the fleet", "err", err)
		}
	}
	_ = o.t.o.Coordinator.Release(ctx, o.leased(), o.writing) // it runs out by itself
}
