package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/seal"
)

// take gives a part that another node has written; without data there is none to be had.
func (o *Object) take(ctx context.Context, part int) Step {
	for {
		o.mu.Lock()
		places := o.at[part]
		if len(places) == 0 || o.alone {
			o.mu.Unlock()
			return Step{}
		}
		at := places[0]
		o.mu.Unlock()
		s, err := o.hold(ctx, part, func(into []byte) ([]byte, error) { return o.read(ctx, part, at, into) })
		if err == nil {
			o.took(part, at, len(s.Data))
			return s
		}
		if ctx.Err() != nil || errors.Is(err, errNoMemory) {
			return Step{}
		}
		o.mu.Lock()
		o.at[part] = slices.DeleteFunc(o.at[part], at.same)
		o.mu.Unlock()
	}
}

var errNoMemory = errors.New("no memory is free for it")

// hold has read put a part into memory that it has until it is released.
func (o *Object) hold(ctx context.Context, part int, read func(into []byte) ([]byte, error)) (s Step, err error) {
	from, to := seal.Range(part, o.size)
	limited, cancel := context.WithTimeout(ctx, o.t.o.Patience)
	share, err := o.t.o.Memory(limited, o.organisation, to-from+seal.Overhead)
	cancel()
	if err != nil {
		return s, errNoMemory
	}
	select {
	case o.t.reads <- struct{}{}:
	case <-ctx.Done():
		share()
		return s, context.Cause(ctx)
	}
	into, giveBack := o.t.memory(to - from + seal.Overhead)
	s = Step{Yield: sync.OnceFunc(func() { <-o.t.reads })}
	s.Release = func() { giveBack(); s.Yield(); share() }
	if s.Data, err = read(into); err != nil {
		s.Release()
		return Step{}, err
	}
	return s, nil
}

// read gets a part from the bucket into memory that a sealed one fits in. That it opens
// shows that somebody with the scope's key has sealed it for its place. Hashing it, too,
// costs as much as all the rest of reading does, and is needed only to know whom to blame.
func (o *Object) read(ctx context.Context, part int, at place, into []byte) ([]byte, error) {
	if !o.t.trusts(at.node, at.writing) {
		return nil, errDistrusted
	}
	data, err := o.get(ctx, part, at, into, o.t.hashes())
	if errors.Is(err, seal.ErrNotOpened) { // which has left nothing of it that could be hashed
		data, err = o.get(ctx, part, at, into, true)
	}
	if errors.Is(err, errWrong) || errors.Is(err, errChanged) {
		o.bad(at, err)
	}
	return data, err
}

// get reads a part and opens it; with hash it says who is to blame if that fails.
func (o *Object) get(ctx context.Context, part int, at place, into []byte, hash bool) ([]byte, error) {
	sealed, err := o.t.o.Bucket.Get(ctx, seal.ObjectKey(at.Name, at.writing, part), into)
	switch {
	case errors.Is(err, bucket.ErrNotFound): // it was never written, or has expired
		o.lose(at.writing)
		return nil, err
	case errors.Is(err, bucket.ErrTooLong): // as no part is
		return nil, errChanged
	case err != nil:
		o.trouble(ctx, err)
		if errors.Is(err, bucket.ErrSlow) { // each part would cost as much patience again
			o.mu.Lock()
			clear(o.at)
			o.mu.Unlock()
		}
		return nil, err
	}
	return o.t.open(at, part, o.size, sealed, hash)
}

// open gives what was sealed in the place of sealed: memory that was not written to lately
// costs more than opening does. With hash the error is errChanged or errWrong.
func open(at place, part int, size int64, sealed []byte, hash bool) ([]byte, error) {
	if hash && sha256.Sum256(sealed) != at.hash {
		return nil, errChanged
	}
	data, err := at.scope.Open(sealed[min(seal.Before, len(sealed)):][:0], at.writing, at.Name, part, size, sealed)
	if from, to := seal.Range(part, size); err == nil && int64(len(data)) == to-from {
		return data, nil
	}
	if hash {
		return nil, errWrong
	}
	return nil, seal.ErrNotOpened
}

// took notes that n bytes of a part from the fleet go into the file.
func (o *Object) took(part int, at place, n int) {
	o.t.o.Metrics.bytes(In, n)
	o.mu.Lock()
	by := coordinator.Holder{Node: at.node, Writing: at.writing}
	if o.used[by] == nil {
		o.used[by] = map[int]place{}
	}
	o.used[by][part] = at
	r := Complete
	if o.lease.held() {
		r = InProgress
	}
	o.mu.Unlock()
	o.count(r)
}

// Mixed reports whether other nodes have given some of the bytes.
func (o *Object) Mixed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.used) > 0
}

// Withheld reports whether clients wait until all bytes are verified.
func (o *Object) Withheld() bool { return o.t.o.Verified }

// withdraw takes back what was written, and ends the writing. Caller holds mu.
func (o *Object) withdraw() {
	o.alone, o.withdrawn = true, o.withdrawn || o.written > 0
	clear(o.parts)
	o.written = 0
}
