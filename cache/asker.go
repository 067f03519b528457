package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/internal/span"
	"berth/oci"
)

// asker asks the origin for one object as one principal, and is how downloads,
// manifests and the bypass go upstream.
type asker struct {
	s         *source
	principal oci.Principal
	object    oci.Object
	// span is that of the request which made this asker; nil: it is not traced.
	span trace.Span
	// proven: the right to the object was shown, by what was proven before or by an
	// answer of the registry to this asker.
	proven atomic.Bool

	mu sync.Mutex
	// again reopens the object where the registry has last sent this asker to.
	again func(context.Context, oci.Range) (*oci.Content, error)
	// warning is why a mirror stands in.
	warning string
}

func (s *source) asker(ctx context.Context, principal oci.Principal, o oci.Object) *asker {
	return &asker{s: s, principal: principal, object: o, span: span.Of(ctx)}
}

// Open asks for r by the shortest way that is left, which may lead to other nodes.
func (a *asker) Open(ctx context.Context, r oci.Range) (*oci.Content, error) {
	if a.s.place.scope != "" {
		if object := a.fleetObject(); object != nil {
			return a.openMixed(ctx, r, object)
		}
	}
	return a.openOrigin(ctx, r)
}

// openOrigin asks the registry for r. What its answer proves or denies is recorded before
// openOrigin returns.
func (a *asker) openOrigin(ctx context.Context, r oci.Range) (*oci.Content, error) {
	ctx = span.With(ctx, a.span)
	a.mu.Lock()
	again := a.again
	a.mu.Unlock()
	if again != nil {
		content, err := again(ctx, r)
		if err == nil {
			return content, nil
		}
		// The target is worn out (its signature has a time limit) or in trouble: the
		// registry may name another one.
		a.setTarget(nil)
	}
	if !a.proven.Load() {
		ctx = oci.WithRight(ctx, a.right)
	}
	content, err := a.s.as(a.principal).Open(ctx, a.object, r)
	if err != nil {
		a.record(err)
		content := a.mirrored(ctx, r, err)
		if content == nil {
			return nil, err
		}
		a.proven.Store(true) // mayMirror has decided so
		a.setTarget(content.Again)
		a.warn(staleWarning(err))
		return content, nil
	}
	if err := a.prove(content); err != nil {
		content.Close()
		return nil, err
	}
	a.setTarget(content.Again)
	return content, nil
}

// right asks for the right to the object where it has to be known before anything is waited
// for.
func (a *asker) right(ctx context.Context) error {
	if a.s.mayWait(a.principal, a.object) {
		return nil
	}
	_, err := a.s.admit(ctx, a.principal, a.object, false)
	return err
}

// Stat asks for as little as tells the size.
func (a *asker) Stat(ctx context.Context) (*oci.Content, error) {
	content, err := a.s.as(a.principal).Stat(span.With(ctx, a.span), a.object)
	if err != nil {
		a.record(err)
		return nil, err
	}
	return content, a.prove(content)
}

// Admit is the release decision.
func (a *asker) Admit(ctx context.Context) (oci.Outcome, error) {
	outcome, err := a.s.admit(ctx, a.principal, a.object, false)
	if err == nil {
		a.proven.Store(true)
	}
	return outcome, err
}

// Proven reports whether the right to the object was shown.
func (a *asker) Proven() bool { return a.proven.Load() }

// Warning is why a mirror stands in; empty: none does.
func (a *asker) Warning() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.warning
}

func (a *asker) warn(warning string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.warning = warning
}

// Restart forgets the redirect target: the copy there is bad.
func (a *asker) Restart() { a.setTarget(nil) }

// prove records what an answer proves. An asker whose right was shown goes on when
// its secret changes: the bytes are what their digest says, whichever secret they
// came for, and the answer then proves nothing for either.
func (a *asker) prove(content *oci.Content) error {
	if content.Asked.IsZero() {
		// It proves nothing (a 416 does not, nor a copy): whoever was not shown to have
		// the right is no better off, and must not read what others fetch.
		return nil
	}
	err := a.s.prove(a.principal, a.object, content.Data != nil, content.Asked)
	if errors.Is(err, download.ErrCredentialChanged) && a.proven.Load() {
		return nil
	}
	if err == nil {
		a.proven.Store(true)
	}
	return err
}

// Delivered records that the repository has shown all of the object, by its registry or by
// what other nodes have of it, in answers to who had been shown the right to it.
func (a *asker) Delivered() {
	if _, proven := a.s.proofs.Access(a.s.accessKey(a.principal, a.object.Repo, a.object.Digest)); !proven.IsZero() && a.Proven() {
		a.s.proofs.Show(a.s.memberKey(a.object), proven)
	}
}

func (a *asker) record(err error) {
	a.s.refused(a.principal, a.object, a.s.questionKey(a.principal, a.object), err)
}

func (a *asker) setTarget(again func(context.Context, oci.Range) (*oci.Content, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = again
}

// mirrored opens a part at the first mirror that has it, when the origin could not
// give it because of cause. A mirror proves nothing: its bytes count by their
// digest alone, and go only to those whom the origin has shown them to before, as
// they do from the disk. Nil: no mirror helps.
func (a *asker) mirrored(ctx context.Context, r oci.Range, cause error) *oci.Content {
	s := a.s
	if len(s.u.Mirrors) == 0 || !oci.Indeterminate(cause) || !a.mayMirror(ctx, cause) {
		return nil
	}
	for _, m := range s.u.Mirrors {
		if ctx.Err() != nil {
			return nil
		}
		content, err := m.Open(ctx, a.object, r)
		if err == nil {
			s.c.o.Log.Debug("a mirror stands in", "registry", s.u.Spec.Name, "repository", a.object.Repo, "digest", a.object.Digest)
			return content
		}
		s.c.o.Log.Debug("a mirror did not help", "registry", s.u.Spec.Name, "repository", a.object.Repo, "digest", a.object.Digest, "err", err)
	}
	return nil
}

// mayMirror reports whether the principal may have the object although the origin
// does not give it now. A pull limit stops GETs of manifests and no HEADs, so
// there the origin can still be asked.
func (a *asker) mayMirror(ctx context.Context, cause error) bool {
	if a.standsIn(cause) {
		return true
	}
	if a.object.Kind == oci.Manifest && oci.ClassOf(cause) == oci.RateLimited {
		_, err := a.Stat(ctx)
		return err == nil && a.standsIn(cause)
	}
	return false
}

// standsIn reports whether what the origin has proven stands in for what it said
// now, if it said anything.
func (a *asker) standsIn(cause error) bool {
	state, _ := a.s.state(a.principal, a.object, false)
	state.Answer = a.s.answerOf(a.principal, cause)
	return proof.Decide(state) == proof.ServeStale
}
