package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"berth/oci"
)

// sponsorKey is who pays for a fill: one view in one repository.
type sponsorKey struct {
	view oci.View
	repo string
}

// sponsor is a view that a fill may go upstream as. It belongs to its fill, and
// the first group of fields is guarded by the fill's mutex.
type sponsor struct {
	key    sponsorKey
	source *source
	object oci.Object
	// struck is closed when the registry refused this sponsor; err says why.
	struck chan struct{}
	woken  bool // struck is closed
	err    error
	// readers that came with this sponsor and are still there.
	readers int

	// proven: its access was shown once, by facts or by its own request. Until
	// then the request under way decides for all its readers.
	proven atomic.Bool

	mu sync.Mutex
	// again reopens the blob where this sponsor was last sent to.
	again func(context.Context, oci.Range) (*oci.Content, error)
}

func newSponsor(s *source, view oci.View, o oci.Object) *sponsor {
	return &sponsor{key: sponsorKey{view, o.Repo}, source: s, object: o, struck: make(chan struct{})}
}

func (sp *sponsor) live() bool { return sp.err == nil }

// open asks for r as the sponsor, by the shortest way that is left. What the
// registry's answer proves or denies is recorded before open returns.
func (sp *sponsor) open(ctx context.Context, r oci.Range) (*oci.Content, error) {
	if again := sp.way(); again != nil {
		content, err := again(ctx, r)
		if err == nil {
			return content, nil
		}
		// The target is worn out (its signature has a time limit) or in trouble:
		// the registry may name another one.
		sp.setWay(nil)
	}
	content, err := sp.source.as(sp.key.view).Open(ctx, sp.object, r)
	if err != nil {
		sp.learn(err)
		if content := sp.mirrored(ctx, r, err); content != nil {
			sp.setWay(content.Again)
			return content, nil
		}
		return nil, err
	}
	if err := sp.prove(content); err != nil {
		closeBody(content.Body)
		return nil, err
	}
	sp.setWay(content.Again)
	return content, nil
}

// prove records what an answer proves. A sponsor whose access was shown goes on
// when its secret changes: the bytes are what its digest says, whichever secret
// they came for, and the answer then proves nothing for either.
func (sp *sponsor) prove(content *oci.Content) error {
	err := sp.source.prove(sp.key.view, sp.object, content.Asked)
	if errors.Is(err, errAccountChanged) && sp.proven.Load() {
		return nil
	}
	if err == nil {
		sp.proven.Store(true)
	}
	return err
}

func (sp *sponsor) way() func(context.Context, oci.Range) (*oci.Content, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.again
}

func (sp *sponsor) setWay(again func(context.Context, oci.Range) (*oci.Content, error)) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.again = again
}

// stat asks for the size alone.
func (sp *sponsor) stat(ctx context.Context) (*oci.Content, error) {
	content, err := sp.source.as(sp.key.view).Stat(ctx, sp.object)
	if err != nil {
		sp.learn(err)
		return nil, err
	}
	return content, sp.prove(content)
}

func (sp *sponsor) learn(err error) {
	s, o := sp.source, sp.object
	s.refused(sp.key.view, o, s.questionKey(sp.key.view, o), err)
}

// told is what the sponsor's own readers are told after the fill ended with err:
// what the registry said to it if that is known, and never what it said about
// another's account or repository. errAgain: the fill ended since all others were
// refused, and nobody has asked as this one.
func (sp *sponsor) told(err error) error {
	select {
	case <-sp.struck:
		return sp.err
	default:
	}
	if strikes(err) {
		return errAgain
	}
	e, ok := errors.AsType[*oci.Error](err)
	if !ok || e.About == (oci.About{}) || e.About.Repo == sp.key.repo && sameOwner(e.About.View, sp.key.view) {
		return err
	}
	return &oci.Error{
		Class: e.Class, RetryAfter: e.RetryAfter, Err: err,
		Message: fmt.Sprintf("the download of %s that this pull had joined has failed (%s): pull again", sp.object.Digest, e.Class),
	}
}

// sameOwner says whether a and b are one view, or one organisation's.
func sameOwner(a, b oci.View) bool { return a == b || !a.Shared() && a.Organisation == b.Organisation }

// strikes says whether an error speaks about the sponsor and not about the
// origin: another one may still get the blob.
func strikes(err error) bool {
	class := oci.ClassOf(err)
	return class.Refuses() || class == oci.NotFound || class == oci.RateLimited || class == oci.Policy ||
		errors.Is(err, errAccountChanged)
}

// closeBody ends an upstream body that is not read to its end.
func closeBody(c io.Closer) {
	_ = c.Close() // what was read from it has been checked or dropped
}
