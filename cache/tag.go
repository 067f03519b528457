package cache

import (
	"context"
	"errors"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/oci"
)

// resolve answers from what tag meant to this view within its time, and else
// asks; upstream in trouble, from what it meant last.
func (s *source) resolve(ctx context.Context, repo, tag string) (*oci.Resolution, error) {
	view := s.View(repo)
	key := proof.TagKey{Origin: s.origin, View: view, Repo: repo, Tag: tag}
	known, fresh := s.freshTag(view, key)
	if fresh {
		return resolution(known, oci.Outcome{Result: oci.Hit}), nil
	}
	var r *oci.Resolution
	err := s.askOrStale(ctx, view, repo, s.mayResolveStale(view, key, proof.Indeterminate), func(ctx context.Context) (err error) {
		r, err = s.askTag(ctx, view, key)
		return err
	})
	if err == nil {
		return s.outcomeOf(r, known), nil
	}
	if ctx.Err() != nil || errors.Is(err, download.ErrCredentialChanged) || !s.mayResolveStale(view, key, s.answerOf(view, err)) {
		return nil, err
	}
	return resolution(known, oci.Outcome{Result: oci.Stale, Warning: staleWarning(err)}), nil
}

// freshTag is what a tag meant last to view, and whether that needs no question.
func (s *source) freshTag(view oci.View, key proof.TagKey) (proof.Tag, bool) {
	known, age := s.proofs.Tag(key)
	access, _ := s.proofs.Access(s.accessKey(view, key.Repo, known.Digest))
	return known, age == proof.Fresh && access == proof.Fresh
}

// mayResolveStale says whether what a tag meant last may stand in for answer. A
// denial may have come meanwhile: access counts as it is now.
func (s *source) mayResolveStale(view oci.View, key proof.TagKey, answer proof.Answer) bool {
	known, age := s.proofs.Tag(key)
	access := s.accessKey(view, key.Repo, known.Digest)
	switch answer {
	case proof.Indeterminate:
		proven, _ := s.proofs.Access(access)
		return age != proof.None && proven != proof.None
	case proof.NotUnderstood, proof.Limited:
		proven, _ := s.proofs.Access(access)
		return age != proof.None && proven >= proof.Recent
	case proof.Kept:
		return known.Digest != "" && s.proofs.HadAccess(access)
	}
	return false
}

func resolution(t proof.Tag, o oci.Outcome) *oci.Resolution {
	return &oci.Resolution{
		Descriptor: oci.Descriptor{MediaType: t.MediaType, Digest: t.Digest, Size: t.Size},
		Outcome:    o,
	}
}

func (s *source) outcomeOf(r *oci.Resolution, known proof.Tag) *oci.Resolution {
	answer := *r // the flight's answer is shared
	answer.Result = oci.Fill
	if known.Digest == r.Digest {
		answer.Result = oci.Revalidated
	}
	return &answer
}

// askTag asks upstream what the tag means now, once for all who ask as the same
// view, and records what the answer proves or denies.
func (s *source) askTag(ctx context.Context, view oci.View, key proof.TagKey) (*oci.Resolution, error) {
	mk := questionKey{s.origin, view, key.Repo, "tag " + key.Tag}
	if err := s.c.knownMissing(mk); err != nil {
		return nil, err
	}
	return s.c.resolves.Do(ctx, mk, func(ctx context.Context) (*oci.Resolution, error) {
		known, fresh := s.freshTag(view, key)
		if fresh { // an answer came while this one was on its way here
			return resolution(known, oci.Outcome{}), nil
		}
		r, err := s.as(view).Resolve(s.insisting(ctx, s.accessKey(view, key.Repo, known.Digest)), key.Repo, key.Tag)
		if err != nil {
			s.tagRefused(view, key, mk, err)
			return nil, err
		}
		s.heard(view, key.Repo)
		o := oci.Object{Repo: key.Repo, Kind: oci.Manifest, Digest: r.Digest}
		if err := s.prove(view, o, r.Asked); err != nil {
			return nil, err
		}
		if _, here := s.c.hot.Get(hotKey{s.origin, r.Digest}); r.Data != nil && !here { // where only a GET tells
			if _, _, err := s.keep(o, r.Data); err != nil {
				return nil, err
			}
		}
		s.proofs.SetTag(key, proof.Tag{MediaType: r.MediaType, Digest: r.Digest, Size: r.Size, Asked: r.Asked})
		return &r, nil
	})
}

func (s *source) tagRefused(view oci.View, key proof.TagKey, mk questionKey, err error) {
	if s.tolerates404(err) {
		s.rememberMissing(mk, err)
		return
	}
	known, age := s.proofs.Tag(key)
	if proof.AnswerOf(err).Doubtful() {
		s.doubt(s.accessKey(view, key.Repo, known.Digest))
		return
	}
	class := oci.ClassOf(err)
	gone := class == oci.NotFound && (age != proof.None || oci.AsError(err).WireCode() == oci.CodeNameUnknown)
	if class.Refuses() || gone {
		s.deny(s.accessKey(view, key.Repo, known.Digest), class)
		s.proofs.DropTag(key)
	}
	if class == oci.NotFound {
		s.rememberMissing(mk, err)
	}
}
