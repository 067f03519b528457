package download

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// slot is an organisation's admission to make one more download run. It belongs
// to one request until the download that the request starts takes it. A nil slot
// is one that nobody counts.
type slot struct{ release func() }

// errRunning ends the waiting for a slot: somebody else's download can be joined.
var errRunning = errors.New("the download has begun")

// slots is the wait list for slots, by what the waiting requests want: when one
// of them, or a request of another organisation, starts the download, the others
// need none any more.
type slots struct {
	mu      sync.Mutex
	waiting map[Key][]*context.CancelCauseFunc
}

// acquire waits for a slot where the blob has to be fetched and nobody does so
// yet. Only the request that starts a download needs one; to join a running one
// is free.
func (t *Table) acquire(ctx context.Context, r Request) (*slot, error) {
	if t.o.Admit == nil {
		return nil, nil //nolint:nilnil // a slot that nobody counts
	}
	ctx, leave := t.slots.wait(ctx, r.Key)
	defer leave()
	if t.Running(r.Key) {
		return nil, nil //nolint:nilnil // as above
	}
	release, err := t.o.Admit(ctx, r.Organisation)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errRunning):
		return nil, nil //nolint:nilnil // as above
	case err != nil:
		return nil, err
	}
	return &slot{release: release}, nil
}

// wait gives a ctx that ends with errRunning when the download starts.
func (s *slots) wait(ctx context.Context, key Key) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = map[Key][]*context.CancelCauseFunc{}
	}
	s.waiting[key] = append(s.waiting[key], &cancel)
	return ctx, func() {
		cancel(nil)
		s.drop(key, &cancel)
	}
}

func (s *slots) drop(key Key, waiter *context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[key] = slices.DeleteFunc(s.waiting[key], func(c *context.CancelCauseFunc) bool { return c == waiter })
	if len(s.waiting[key]) == 0 {
		delete(s.waiting, key)
	}
}

// announce tells everyone who waits that the download runs.
func (s *slots) announce(key Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.waiting[key] {
		(*cancel)(errRunning)
	}
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
