package cache

import (
	"context"
	"errors"
	"time"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/internal/registry"
	"berth/oci"
)

// source is one registry as one organisation may see it, through the cache.
type source struct {
	c      *Cache
	u      Upstream
	origin string
	place  place
	// share makes the fleet's part in a download; nil: it has none.
	share  func() download.Share
	proofs *proof.Proofs // with the times that hold here
	shared *source       // nil: the shared principal says nothing here
}

// Principal is as whom repo is asked.
func (s *source) Principal(repo string) oci.Principal { return s.u.As.Principal(repo) }

// as is whom to ask for principal. What is asked for the shared principal is asked for
// everyone in it at once, so it must not carry the name of the one who happens
// to come first: not in an answer that others get, nor in one that is remembered.
func (s *source) as(principal oci.Principal) oci.Source {
	if principal.Shared() {
		return s.u.Shared
	}
	return s.u.As
}

// Open serves an object from memory or disk where that is allowed, and fetches it
// otherwise.
func (s *source) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	return withFallback(s, o.Repo, func(s *source) (*oci.Content, error) { return s.open(ctx, o, r) })
}

// Stat says what Open would serve, and sends no bytes.
func (s *source) Stat(ctx context.Context, o oci.Object) (*oci.Content, error) {
	return withFallback(s, o.Repo, func(s *source) (*oci.Content, error) { return s.stat(ctx, o) })
}

// Resolve answers from what the tag meant to this principal within its time, and
// else asks.
func (s *source) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	r, err := withFallback(s, repo, func(s *source) (*oci.Resolution, error) { return s.resolve(ctx, repo, tag) })
	if err != nil {
		return oci.Resolution{}, err
	}
	known := *r // a flight's answer is shared
	if e, ok := s.hotManifest(r.Digest); ok {
		known.MediaType = e.mediaType // the document's own word
	}
	return known, nil
}

// List passes through: lists are not content-addressed, and change. One proves
// nothing. That a registry refuses one is about lists: some refuse them to all who may
// pull, and what the shared principal had proven would end for everybody in it.
func (s *source) List(ctx context.Context, req oci.ListRequest) (*oci.Page, error) {
	page, err := asOne(s, req.Repo, func(s *source) (*oci.Page, error) { return s.as(s.Principal(req.Repo)).List(ctx, req) })
	if err != nil {
		return nil, err
	}
	page.Result = oci.Pass
	return page, nil
}

// answer is what a method of a Source gives, with an Outcome in it.
type answer interface{ Warn(text string) }

// unaccounted is the warning on what was got without the account that e is about.
func unaccounted(e *oci.Error) string {
	return "answered without a credential: " + oci.OneLine(e.Message, 300)
}

// asOne calls do for the principal of s alone, once more where its credential was changed
// meanwhile. The shared principal uses this node's account; where the registry has refused
// that, do is called once more without it, so that public images can still be pulled. If
// that fails too, a caller without an organisation gets the refusal of the account as the
// error: whoever runs the node can renew it.
func asOne[T answer](s *source, repo string, do func(*source) (T, error)) (t T, err error) {
	if t, err = do(s); errors.Is(err, download.ErrCredentialChanged) {
		t, err = do(s) // with the new one
	}
	without := s.without(repo)
	if without == nil {
		return t, err
	}
	if oci.ClassOf(err) == oci.Unauthorized { // it was this request that found out
		t, err = do(s)
	}
	switch {
	case err == nil:
		t.Warn(unaccounted(without))
	case s.u.Organisation == "" && oci.ClassOf(err) == oci.NoCredential:
		return t, without
	}
	return t, err
}

// without is why the shared principal, if repo is asked as that, does without this node's
// account; nil: it does not.
func (s *source) without(repo string) *oci.Error {
	if s.u.Without == nil || !s.Principal(repo).Shared() {
		return nil
	}
	return s.u.Without(repo)
}

// withFallback lets the shared principal answer for an organisation whose own
// outcome is unknown or whose credential was refused. An organisation that the
// registry has denied the repository itself never gets that far.
func withFallback[T answer](s *source, repo string, do func(*source) (T, error)) (T, error) {
	t, err := asOne(s, repo, do)
	if err == nil || s.shared == nil || !s.mayFallBack(repo, err) {
		return t, err
	}
	t, sharedErr := asOne(s.shared, repo, do)
	if sharedErr != nil {
		return t, err // the organisation's own answer is the one that helps it
	}
	t.Warn(unaccounted(oci.AsError(err)))
	return t, nil
}

func (s *source) mayFallBack(repo string, err error) bool {
	principal := s.Principal(repo)
	if principal.Shared() {
		return false // it has just been asked
	}
	asked := oci.ClassOf(err) == oci.Unauthorized && s.u.Spec.AnonymousFallback || oci.Indeterminate(err)
	return asked && !s.proofs.DeniedItself(s.accessKey(principal, repo, ""))
}

// repoKey stands for a repository as principal sees it.
func (s *source) repoKey(principal oci.Principal, repo string) proof.Access {
	return proof.Access{Origin: s.origin, Principal: principal, Repo: repo}
}

func (s *source) accessKey(principal oci.Principal, repo string, d oci.Digest) proof.Access {
	key := s.repoKey(principal, repo)
	if s.u.Spec.Access == registry.AccessObject {
		key.Digest = d
	}
	return key
}

func (s *source) memberKey(o oci.Object) proof.Member {
	return proof.Member{Origin: s.origin, Repo: o.Repo, Kind: o.Kind, Digest: o.Digest}
}

// open decides once with what is known, asks where that is not enough, and
// decides again.
func (s *source) open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	principal := s.Principal(o.Repo)
	content, err := s.inMemory(o), error(nil)
	if content == nil {
		if err := s.needMemory(ctx, principal, o); err != nil {
			return nil, err
		}
		content, err = s.cached(o) // it may have come into memory meanwhile
	}
	if content != nil || err != nil {
		content, err = s.release(ctx, principal, o, r, content, err)
	} else {
		content, err = s.openAbsent(ctx, principal, o, r)
	}
	if err == nil && o.Kind == oci.Manifest && (s.c.fleet != nil || content.Result != oci.Hit) {
		s.note(o, content.Data)
	}
	return content, err
}

// openAbsent opens what the registry itself has not brought here before.
func (s *source) openAbsent(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range) (content *oci.Content, err error) {
	if o.Kind == oci.Manifest {
		// Its GET is counted, and a HEAD is not: which of them goes out shows too.
		if access, _ := s.proofs.Access(s.accessKey(principal, o.Repo, o.Digest)); access != proof.Fresh {
			if _, err := s.admit(ctx, principal, o, false); err != nil {
				return nil, err
			}
		}
	}
	if s.c.fleet == nil {
		content, err = s.fetch(ctx, principal, o, r)
	} else {
		content, err = s.openWithFleet(ctx, principal, o, r)
	}
	if oci.ClassOf(err) == oci.RateLimited {
		// For what is kept the right is decided before any quota. Without this an
		// organisation that has used up its own could tell from the answer what is kept.
		if _, denied := s.admit(ctx, principal, o, false); denied != nil {
			return nil, denied
		}
	}
	return content, err
}

// mayWait says that principal, who has no less right to o than to its repository, waits for
// limits of ours before he is asked for: a cold pull asks for nothing but its blobs. That
// goes by a manifest of the repository, of which the registry has looked whether it has all
// that it lists. Else whoever has a repository could find out, at his own limits, what is kept
// of others': for that the right is asked for, and nobody waits.
func (s *source) mayWait(principal oci.Principal, o oci.Object) bool {
	return o.Kind == oci.Blob && s.isListed(principal, o)
}

// isListed says whether principal has a right to o's repository, and a manifest there lists o.
func (s *source) isListed(principal oci.Principal, o oci.Object) bool {
	if access, _ := s.proofs.Access(s.accessKey(principal, o.Repo, o.Digest)); access != proof.Fresh {
		return false
	}
	l, ok := s.c.lists.listed.Get(s.memberKey(o))
	return ok && !l.elsewhere
}

func (s *source) stat(ctx context.Context, o oci.Object) (*oci.Content, error) {
	principal := s.Principal(o.Repo)
	d, err := s.describe(o)
	if d == nil && err == nil && s.c.fleet != nil {
		if there, ok := s.scoped(ctx, principal, o); ok {
			if d, err = there.describe(o); d != nil {
				s = there.source
			}
		}
	}
	if err != nil {
		return s.release(ctx, principal, o, oci.Range{}, nil, err)
	}
	if d == nil {
		return s.statPast(ctx, principal, o)
	}
	outcome, err := s.admit(ctx, principal, o, true)
	if errors.Is(err, errUnshown) {
		return s.statPast(ctx, principal, o)
	}
	if err != nil {
		return nil, err
	}
	sound, err := s.stillSound(ctx, o, d.Size)
	switch {
	case err != nil:
		return nil, err
	case !sound:
		return s.statPast(ctx, principal, o)
	}
	return &oci.Content{Descriptor: *d, Outcome: outcome}, nil
}

// statPast asks upstream about what is not there.
func (s *source) statPast(ctx context.Context, principal oci.Principal, o oci.Object) (*oci.Content, error) {
	c, err := s.ask(ctx, principal, o)
	if err != nil {
		return nil, err
	}
	known := *c // the flight's answer is shared
	known.Result = oci.Pass
	return &known, nil
}

// admit says whether cached bytes of o may go to principal, and how that came
// about; the error is the answer where they may not. kept: they are here, and must have
// been shown by o's repository; else errUnshown is the error, and nobody was asked.
func (s *source) admit(ctx context.Context, principal oci.Principal, o oci.Object, kept bool) (oci.Outcome, error) {
	state, proven := s.state(principal, o, kept)
	if proof.Decide(state) == proof.Serve {
		s.renewEarly(principal, o, proven)
		return oci.Outcome{Result: oci.Hit}, nil
	}
	if kept && s.unshown(o) {
		return oci.Outcome{}, errUnshown
	}
	state.Answer = proof.Indeterminate
	err := s.askOrStale(ctx, principal, o.Repo, proof.Decide(state) == proof.ServeStale, func(ctx context.Context) error {
		_, err := s.ask(ctx, principal, o)
		return err
	})
	if err != nil && (ctx.Err() != nil || errors.Is(err, download.ErrCredentialChanged)) {
		return oci.Outcome{}, err
	}
	state, _ = s.state(principal, o, kept)
	if state.Answer = s.answerOf(principal, err); state.Answer == proof.Kept {
		state = s.kept(ctx, state, principal, o)
	}
	switch proof.Decide(state) {
	case proof.Serve:
		return oci.Outcome{Result: oci.Revalidated}, nil
	case proof.ServeStale:
		return oci.Outcome{Result: oci.Stale, Warning: staleWarning(err)}, nil
	}
	return oci.Outcome{}, err
}

func staleWarning(err error) string {
	return "served from the cache: " + oci.OneLine(oci.AsError(err).For("").Message, 300)
}

// state is what is known about o for principal, and when access was proven. kept: for bytes
// that are there, whichever repository has brought them.
func (s *source) state(principal oci.Principal, o oci.Object, kept bool) (proof.State, time.Time) {
	access, proven := s.proofs.Access(s.accessKey(principal, o.Repo, o.Digest))
	state := proof.State{Access: access, Member: s.proofs.Member(s.memberKey(o)), Bytes: s.place.bytes}
	if !kept {
		state.Member = s.proofs.Claimed(s.memberKey(o))
	}
	if state.Bytes == proof.FromPublic {
		state.Listed = s.listedAge(o)
	}
	return state, proven
}

// fetch gets what is not here.
func (s *source) fetch(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range) (*oci.Content, error) {
	if err := s.c.knownMissing(s.questionKey(principal, o)); err != nil {
		return nil, err // the same 404 as for a cached one, so that nobody can probe the cache
	}
	if err := s.c.trouble.refusal(s.blobKey(o), principal); err != nil {
		return s.release(ctx, principal, o, r, nil, err)
	}
	if o.Kind == oci.Manifest {
		return s.fetchManifest(ctx, principal, o)
	}
	return s.fetchBlob(ctx, principal, o, r)
}

// release gives what is cached, or what is wrong with that, to a principal that is
// admitted. To any other not even the latter: it would show that somebody had it.
func (s *source) release(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range, content *oci.Content, err error) (*oci.Content, error) {
	outcome, denied := s.admit(ctx, principal, o, content != nil)
	if errors.Is(denied, errUnshown) {
		return s.releaseUnshown(ctx, principal, o, r, content)
	}
	if denied == nil && err == nil {
		content.Outcome = outcome
		if content.Data != nil {
			return content, nil // memory was verified
		}
		return s.verified(ctx, principal, o, r, content)
	}
	if content != nil {
		content.Close()
	}
	if denied != nil {
		return nil, denied
	}
	return nil, err
}
