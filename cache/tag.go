package cache

import (
	"context"
	"errors"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/oci"
)

// resolve answers from what tag meant to this principal within its time, and else
// asks; upstream in trouble, from what it meant last.
func (s *source) resolve(ctx context.Context, repo, tag string) (*oci.Resolution, error) {
	principal := s.Principal(repo)
	key := proof.TagKey{Origin: s.origin, Principal: principal, Repo: repo, Tag: tag}
	known, fresh := s.freshTag(principal, key)
	if fresh {
		return resolution(known, oci.Outcome{Result: oci.Hit}), nil
	}
	var r *oci.Resolution
	err := s.askOrStale(ctx, principal, repo, s.mayResolveStale(principal, key, proof.Indeterminate), func(ctx context.Context) (err error) {
		r, err = s.askTag(ctx, principal, key)
		return err
	})
	if err == nil {
		answer := *r // the flight's answer is shared
		if answer.Result = oci.Fill; known.Digest == r.Digest {
			answer.Result = oci.Revalidated
		}
		return &answer, nil
	}
	answer := s.answerOf(principal, err)
	if answer == proof.Kept {
		s.stillReads(ctx, principal, repo, known.Digest)
	}
	if ctx.Err() != nil || errors.Is(err, download.ErrCredentialChanged) || !s.mayResolveStale(principal, key, answer) {
		return nil, err
	}
	return resolution(known, oci.Outcome{Result: oci.Stale, Warning: staleWarning(err)}), nil
}

// freshTag is what a tag meant last to principal, and whether that needs no question.
func (s *source) freshTag(principal oci.Principal, key proof.TagKey) (proof.Tag, bool) {
	known, age := s.proofs.Tag(key)
	access, _ := s.proofs.Access(s.accessKey(principal, key.Repo, known.Digest))
	return known, age == proof.Fresh && access == proof.Fresh
}

// mayResolveStale says whether what a tag meant last may stand in for answer. A
// denial may have come meanwhile: access counts as it is now.
func (s *source) mayResolveStale(principal oci.Principal, key proof.TagKey, answer proof.Answer) bool {
	known, age := s.proofs.Tag(key)
	access := s.accessKey(principal, key.Repo, known.Digest)
	switch answer {
	case proof.Indeterminate:
		proven, _ := s.proofs.Access(access)
		return age != proof.None && proven != proof.None
	case proof.NotUnderstood, proof.Limited:
		proven, _ := s.proofs.Access(access)
		return age != proof.None && proven >= proof.Recent
	case proof.Kept:
		proven, _ := s.proofs.Access(access)
		return known.Digest != "" && proven != proof.None
	}
	return false
}

func resolution(t proof.Tag, o oci.Outcome) *oci.Resolution {
	return &oci.Resolution{
		Descriptor: oci.Descriptor{MediaType: t.MediaType, Digest: t.Digest, Size: t.Size},
		Outcome:    o,
	}
}

// askTag asks upstream what the tag means now, once for all who ask as the same
// principal, and records what the answer proves or denies.
func (s *source) askTag(ctx context.Context, principal oci.Principal, key proof.TagKey) (*oci.Resolution, error) {
	question := questionKey{origin: s.origin, principal: principal, repo: key.Repo, ref: "tag " + key.Tag}
	if err := s.c.knownMissing(question); err != nil {
		return nil, err
	}
	return together(ctx, s, s.c.resolves, question, func(ctx context.Context) (*oci.Resolution, error) {
		known, fresh := s.freshTag(principal, key)
		if fresh { // an answer came while this one was on its way here
			return resolution(known, oci.Outcome{}), nil
		}
		asking, end := s.insisting(ctx, s.accessKey(principal, key.Repo, known.Digest))
		defer end()
		r, err := s.as(principal).Resolve(asking, key.Repo, key.Tag)
		if err != nil {
			s.tagRefused(principal, key, question, err)
			return nil, err
		}
		s.c.slow.Release(s.repoKey(principal, key.Repo))
		o := oci.Object{Repo: key.Repo, Kind: oci.Manifest, Digest: r.Digest}
		if err := s.prove(principal, o, r.Data != nil, r.Asked); err != nil {
			return nil, err
		}
		if _, here := s.c.hot.Get(s.hotKey(r.Digest)); r.Data != nil && !here { // where only a GET tells
			if _, _, err := s.keep(o, r.Data); err != nil {
				return nil, err
			}
		}
		s.proofs.SetTag(key, proof.Tag{MediaType: r.MediaType, Digest: r.Digest, Size: r.Size, Asked: r.Asked})
		return &r, nil
	})
}

func (s *source) tagRefused(principal oci.Principal, key proof.TagKey, question questionKey, err error) {
	if s.tolerates404(err) {
		s.rememberMissing(question, err)
		return
	}
	known, _ := s.proofs.Tag(key) // however long ago it was shown
	if proof.AnswerOf(err).Doubtful() {
		s.doubt(s.accessKey(principal, key.Repo, known.Digest))
		return
	}
	class := oci.ClassOf(err)
	gone := class == oci.NotFound && (known.Digest != "" || oci.AsError(err).WireCode() == oci.CodeNameUnknown)
	if class.Refuses() || gone {
		s.deny(s.accessKey(principal, key.Repo, known.Digest), class)
		s.proofs.DropTag(key)
	}
	if class == oci.NotFound {
		s.rememberMissing(question, err)
	}
}
