package download

import (
	"context"
	"errors"
)

// slot is an organisation's admission to make one more download run. It belongs
// to one request until the download that the request starts takes it. A nil slot
// is one that nobody counts.
type slot struct{ release func() }

// errRunning ends the waiting for a slot: somebody else's download can be joined.
var errRunning = errors.New("the download has begun")

// waiter is a request that waits for a slot. When another one starts the download
// it wants, it needs none any more.
type waiter struct {
	key    Key
	cancel context.CancelCauseFunc
}

// acquire waits for a slot where the blob has to be fetched and nobody does so
// yet. Only the request that starts a download needs one; to join a running one
// is free.
func (t *Table) acquire(ctx context.Context, r Request) (*slot, error) {
	if t.o.Admit == nil {
		return nil, nil //nolint:nilnil // a slot that nobody counts
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &waiter{key: r.Key, cancel: cancel}
	t.mu.Lock()
	t.waiting[w] = struct{}{}
	t.mu.Unlock()
	defer t.stopWaiting(w)
	if t.Running(r.Key) {
		return nil, nil //nolint:nilnil // as above
	}
	release, err := t.admit(ctx, r)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errRunning):
		return nil, nil //nolint:nilnil // as above
	case err != nil:
		return nil, err
	}
	return &slot{release: release}, nil
}

// admit waits for an organisation's turn, once the right is shown where that is asked for.
func (t *Table) admit(ctx context.Context, r Request) (release func(), err error) {
	if r.Right != nil {
		now, cancel := context.WithCancel(ctx)
		cancel()
		if release, err = t.o.Admit(now, r.Organisation); err == nil {
			return release, nil
		}
		if err = r.Right(ctx); err != nil {
			return nil, err
		}
	}
	return t.o.Admit(ctx, r.Organisation)
}

// announce tells everyone who waits for a slot for it that the download runs.
func (t *Table) announce(key Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.waiting {
		if w.key == key {
			w.cancel(errRunning)
		}
	}
}

func (t *Table) stopWaiting(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.cancel(nil)
	delete(t.waiting, w)
}

// take hands the slot over to a download.
func (s *slot) take() *slot {
	if s == nil {
		return nil
	}
	taken := &slot{release: s.release}
	s.release = nil
	return taken
}

// giveBack ends the slot, once. It does nothing where a download took it.
func (s *slot) giveBack() {
	if s != nil && s.release != nil {
		s.release()
		s.release = nil
	}
}
