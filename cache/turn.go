package cache

import (
	"context"
	"errors"
	"slices"
	"sync"

	"berth/oci"
)

// turn is an organisation's right to make one more fill run. It belongs to one
// request until the fill that the request makes run takes it; a nil turn is one
// that nobody counts.
type turn struct {
	// end gives it back; failed: it has brought nothing.
	end func(failed bool)
}

// errRuns ends the waiting for a turn: somebody else's fill can be joined.
var errRuns = errors.New("the download has begun")

// turn is needed where o has to be fetched and nobody does so yet: who joins
// costs its organisation nothing.
func (s *source) turn(ctx context.Context, view oci.View, o oci.Object) (*turn, error) {
	switch {
	case o.Kind == oci.Manifest && view.Shared():
		return s.spend(o)
	case o.Kind == oci.Blob:
		return s.wait(ctx, o)
	}
	return nil, nil //nolint:nilnil // a turn that nobody counts
}

// spend takes one of what the organisation may use of the shared view's pulls:
// what registries count are the GETs of manifests.
func (s *source) spend(o oci.Object) (*turn, error) {
	if s.u.Spend == nil || s.c.runs(s.fillKey(o)) {
		return nil, nil //nolint:nilnil // as above
	}
	undo, err := s.u.Spend()
	if err != nil {
		return nil, err
	}
	return &turn{func(failed bool) {
		if failed {
			undo()
		}
	}}, nil
}

// wait waits for a turn to download a blob. Manifests are small, and what
// follows from them is counted.
func (s *source) wait(ctx context.Context, o oci.Object) (*turn, error) {
	if s.c.o.Turn == nil {
		return nil, nil //nolint:nilnil // as above
	}
	ctx, leave := s.c.line.stand(ctx, s.fillKey(o))
	defer leave()
	if s.c.runs(s.fillKey(o)) {
		return nil, nil //nolint:nilnil // as above
	}
	end, err := s.c.o.Turn(ctx, s.u.Organisation)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errRuns):
		return nil, nil //nolint:nilnil // as above
	case err != nil:
		return nil, err
	}
	return &turn{func(bool) { end() }}, nil
}

// line is who waits for a turn, by what they want: when one of them, or somebody
// of another organisation, makes the fill run, the others need not wait.
type line struct {
	mu      sync.Mutex
	waiting map[fillKey][]*context.CancelCauseFunc
}

// stand gives a ctx that ends with errRuns when the fill runs.
func (l *line) stand(ctx context.Context, key fillKey) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		l.waiting = map[fillKey][]*context.CancelCauseFunc{}
	}
	l.waiting[key] = append(l.waiting[key], &cancel)
	return ctx, func() {
		cancel(nil)
		l.leave(key, &cancel)
	}
}

func (l *line) leave(key fillKey, who *context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[key] = slices.DeleteFunc(l.waiting[key], func(c *context.CancelCauseFunc) bool { return c == who })
	if len(l.waiting[key]) == 0 {
		delete(l.waiting, key)
	}
}

// runs tells everyone who waits that the fill with key does.
func (l *line) runs(key fillKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cancel := range l.waiting[key] {
		(*cancel)(errRuns)
	}
}

// runs says that the fill with key is being downloaded.
func (c *Cache) runs(key fillKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.fills[key]
	if !ok {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

// take hands the turn over to a fill.
func (t *turn) take() *turn {
	if t == nil {
		return nil
	}
	taken := *t
	t.end = nil
	return &taken
}

// unused gives the turn back if no fill took it.
func (t *turn) unused() { t.over(true) }

// over ends the turn, once.
func (t *turn) over(failed bool) {
	if t != nil && t.end != nil {
		t.end(failed)
		t.end = nil
	}
}
