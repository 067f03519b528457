package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"berth/fleet/bucket"
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
		s, err := o.hold(ctx, part, at)
		if err == nil {
			o.took(at, len(s.Data))
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

var (
	errWrong    = errors.New("not what was announced")
	errNoMemory = errors.New("no memory is free for it")
)

// hold reads a part into memory that it has until it is released.
func (o *Object) hold(ctx context.Context, part int, at place) (s Step, err error) {
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
	if s.Data, err = o.read(ctx, part, at, into); err != nil {
		s.Release()
		return Step{}, err
	}
	return s, nil
}

// read gets a part from the bucket into memory that a sealed one fits in. What is not what
// its writer has announced counts against it.
func (o *Object) read(ctx context.Context, part int, at place, into []byte) ([]byte, error) {
	if !o.t.trusts(at.node, at.writing) {
		return nil, errWrong
	}
	from, to := seal.Range(part, o.size)
	sealed, err := o.t.o.Bucket.Get(ctx, seal.ObjectKey(at.Name, at.writing, part), into)
	switch {
	case errors.Is(err, bucket.ErrNotFound): // it was never written, or has expired
		o.mu.Lock()
		o.lost[at.writing] = true
		o.mu.Unlock()
		return nil, err
	case err != nil:
		o.trouble(ctx, err)
		if errors.Is(err, bucket.ErrSlow) { // each part would cost as much patience again
			o.mu.Lock()
			clear(o.at)
			o.mu.Unlock()
		}
		return nil, err
	}
	data, err := o.t.open(at, part, o.size, sealed)
	if err == nil && int64(len(data)) != to-from {
		err = errWrong
	}
	if err != nil {
		o.t.blame(at.node, at.writing)
		return nil, err
	}
	return data, nil
}

// open gives what was sealed, if it is what was announced, in the place of sealed: memory
// that was not written to lately costs more than opening does.
func open(at place, part int, size int64, sealed []byte) ([]byte, error) {
	if sha256.Sum256(sealed) != at.hash {
		return nil, errWrong
	}
	return at.scope.Open(sealed[min(seal.Before, len(sealed)):][:0], at.writing, at.Name, part, size, sealed)
}

// took notes that n bytes from the fleet go into the file.
func (o *Object) took(at place, n int) {
	o.t.o.Metrics.bytes(In, n)
	o.mu.Lock()
	if !slices.ContainsFunc(o.used, at.same) {
		o.used = append(o.used, at)
	}
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

// Wrong says that the bytes, wherever they came from, do not match the digest. All that is
// fetched again comes from the registry, and nobody is to read what was written of them.
func (o *Object) Wrong() {
	o.mu.Lock()
	used := o.used
	o.used, o.file = nil, nil
	o.withdraw()
	o.mu.Unlock()
	for _, at := range used {
		o.t.blame(at.node, at.writing)
	}
}

// withdraw takes back what was written, and ends the writing. Caller holds mu.
func (o *Object) withdraw() {
	o.alone, o.withdrawn = true, o.withdrawn || o.written > 0
	clear(o.parts)
	o.written = 0
}
