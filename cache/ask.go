package cache

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/internal/flight"
	"berth/internal/span"
	"berth/oci"
)

// askTimeout bounds a request that proves something; its waiters have limits
// of their own.
const askTimeout = 30 * time.Second

// missingFor is how long a 404 is remembered for the principal that got it.
const missingFor = 5 * time.Second

// questionKey is what is asked of a registry, as whom: one at a time, and not again
// soon where the answer was 404.
type questionKey struct {
	origin    string
	principal oci.Principal
	repo      string
	ref       string // kind and digest, or tag
	// payer is whose limits it counts against, where it is not put together with others'.
	payer string
}

func (s *source) questionKey(principal oci.Principal, o oci.Object) questionKey {
	return questionKey{origin: s.origin, principal: principal, repo: o.Repo, ref: o.Kind.String() + o.Digest.String()}
}

// together puts a question once for all who have it at the same time as the same
// principal. As the shared one these are many organisations, and one of them pays: where
// it waits for a limit of that one's, or was refused by it, the others put it themselves.
func together[V any](ctx context.Context, s *source, g *flight.Group[questionKey, V], q questionKey, put func(context.Context) (V, error)) (V, error) {
	asked, memory := put, oci.MemoryOf(ctx)
	put = func(ctx context.Context) (V, error) { return asked(oci.WithMemory(ctx, memory)) }
	if !q.principal.Shared() {
		return g.Do(ctx, q, put)
	}
	alone := q
	alone.payer = "organisation " + s.u.Organisation
	if s.c.insistence.waits(s.repoKey(q.principal, q.repo)) {
		return g.Do(ctx, alone, put)
	}
	var mine atomic.Bool
	v, err := g.Do(ctx, q, func(ctx context.Context) (V, error) {
		mine.Store(true)
		return put(ctx)
	})
	if oci.ClassOf(err) == oci.Policy && !mine.Load() {
		return g.Do(ctx, alone, put)
	}
	return v, err
}

// ask puts o to upstream as principal: once for all who want to know at the same
// time. What the answer proves or denies is recorded before anyone gets it.
func (s *source) ask(ctx context.Context, principal oci.Principal, o oci.Object) (*oci.Content, error) {
	question := s.questionKey(principal, o)
	if err := s.c.knownMissing(question); err != nil {
		return nil, err
	}
	ctx, asking := span.Begin(ctx, "proof")
	content, err := together(ctx, s, s.c.stats, question, s.putQuestion(principal, o, question))
	span.End(asking, err)
	return content, err
}

// putQuestion gives what puts the question of ask to the registry, if nobody does so yet.
func (s *source) putQuestion(principal oci.Principal, o oci.Object, question questionKey) func(context.Context) (*oci.Content, error) {
	return func(ctx context.Context) (*oci.Content, error) {
		ctx, end := s.insisting(ctx, s.accessKey(principal, o.Repo, o.Digest))
		defer end()
		content, err := s.as(principal).Stat(ctx, o)
		if err = s.notABlob(principal, o, err); err != nil {
			s.refused(principal, o, question, err)
			return nil, err
		}
		s.c.slow.Release(s.repoKey(principal, o.Repo))
		return content, s.prove(principal, o, content.Data != nil || s.hasScoped(o), content.Asked)
	}
}

// notABlob is err, of a question about o as a blob, or a 404 where o is known to be a
// manifest of the same repository and the registry did not understand that somebody
// looks for it among the blobs. To whoever may not see the repository nothing is known.
func (s *source) notABlob(principal oci.Principal, o oci.Object, err error) error {
	if err == nil || o.Kind != oci.Blob || !oci.AsError(err).NotUnderstood {
		return err
	}
	manifest := s.memberKey(oci.Object{Repo: o.Repo, Kind: oci.Manifest, Digest: o.Digest})
	if access, _ := s.proofs.Access(s.accessKey(principal, o.Repo, o.Digest)); access != proof.Fresh || s.proofs.Claimed(manifest) == proof.None {
		return err
	}
	return &oci.Error{
		Class: oci.NotFound, Code: oci.CodeBlobUnknown, About: oci.About{Principal: principal, Repo: o.Repo},
		Message: fmt.Sprintf("%s is a manifest of %s, and no blob: ask for it under manifests", o.Digest, o.Repo), Err: err,
	}
}

// prove records a 2xx to a request that was sent at asked; shown: it had o in it. The error:
// a denial has come since, and wins; or the credential was changed since principal was
// looked up, so that nobody can tell which one the answer is for.
func (s *source) prove(principal oci.Principal, o oci.Object, shown bool, asked time.Time) error {
	if s.Principal(o.Repo) != principal {
		return &oci.Error{
			Class: oci.UpstreamError, RetryAfter: time.Second, About: oci.About{Principal: principal, Repo: o.Repo},
			Message: fmt.Sprintf("the account for %s was changed while %s was being asked for; pull again", s.u.Spec.Name, o.Repo),
			Err:     download.ErrCredentialChanged,
		}
	}
	key := s.accessKey(principal, o.Repo, o.Digest)
	record := s.proofs.Claim
	if shown || s.speaksForItself() {
		record = s.proofs.Prove
	}
	if record(key, s.memberKey(o), asked) {
		return &oci.Error{
			Class:   oci.Denied,
			About:   oci.About{Principal: principal, Repo: o.Repo},
			Message: fmt.Sprintf("%s refused %s while it was being asked for; pull again", s.u.Spec.Name, o.Repo),
		}
	}
	left := maxRenewed
	s.renewListed(&left, o, asked)
	s.askIfPublic(principal, o)
	return nil
}

// refused records what an error says about principal and o.
func (s *source) refused(principal oci.Principal, o oci.Object, question questionKey, err error) {
	class := oci.ClassOf(err)
	switch key := s.accessKey(principal, o.Repo, o.Digest); {
	case proof.AnswerOf(err).Doubtful():
		s.doubt(key)
		return
	case class.Refuses():
		s.deny(key, class)
		return
	case class != oci.NotFound:
		return
	}
	if s.tolerates404(err) {
		s.rememberMissing(question, err)
		return
	}
	seen := s.proofs.HadMember(s.memberKey(o)) || s.proofs.Claimed(s.memberKey(o)) != proof.None
	if seen || oci.AsError(err).WireCode() == oci.CodeNameUnknown {
		// A registry that hides what one may not see answers 404 too. One that has
		// shown the principal the repository may be saying that the object is gone.
		key := s.accessKey(principal, o.Repo, o.Digest)
		if access, _ := s.proofs.Access(key); access != proof.None {
			s.proofs.Missed(s.memberKey(o))
		}
		s.deny(key, class)
	}
	s.rememberMissing(question, err)
}

// doubt shortens what the principal had proven. To the shared principal nothing is secret:
// there an answer that is not understood is as good as silence.
func (s *source) doubt(key proof.Access) {
	if !key.Principal.Shared() {
		s.proofs.Doubt(key)
	}
}

// deny voids what the principal had proven. A refused credential says nothing about
// the repository, so the shared principal may still stand in.
func (s *source) deny(key proof.Access, class oci.Class) {
	if class == oci.Unauthorized {
		s.proofs.DenyCredential(key)
		return
	}
	s.proofs.Deny(key)
}

func (s *source) rememberMissing(k questionKey, err error) {
	s.c.missing.For(s.u.Organisation, k, missingFor, oci.AsError(err))
}

func (c *Cache) knownMissing(k questionKey) error {
	_, why, _ := c.missing.Held(k)
	return why
}

// renewEarly asks again in the background when access, proven then, is past four
// fifths of its life, so that no pull has to wait for it.
func (s *source) renewEarly(principal oci.Principal, o oci.Object, proven time.Time) {
	if ttl := s.proofs.AccessTTL(); s.c.o.Now().Sub(proven) < ttl-ttl/5 {
		return
	}
	if question := s.questionKey(principal, o); s.c.knownMissing(question) == nil {
		// Nobody waits for the answer: it is recorded, and whoever pulls next sees it.
		s.c.stats.Start(question, s.putQuestion(principal, o, question))
	}
}
