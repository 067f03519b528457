package cache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"berth/cache/proof"
	"berth/internal/registry"
	"berth/oci"
)

// staleWait is how long a request waits for the registry where it could be
// answered with a stale copy. A pull by tag asks twice, or four times where the
// shared principal stands in, and a client has its header within 20 s.
const staleWait = 4 * time.Second

// slowFor is how long a question about a repository whose answer did not come in time
// is waited for no longer than tryWait, as it is while the registry is in trouble.
// When that was in vain too, nobody waits for as long again.
const (
	slowFor = 10 * time.Second
	tryWait = time.Second
)

// troubled is a Source that knows, without asking, that its registry is not worth
// waiting for: package upstream's, by its breaker.
type troubled interface {
	// Trouble is an *oci.Error, or nil.
	Trouble(repo string) error
}

var errStaleWait = errors.New("no answer in time")

// askOrStale asks. Where there is a stale copy to fall back on, it waits only as
// long as that is worth it: the question goes on without it, and what it comes
// to is known to whoever asks next. The error then is Timeout, or what the
// registry's trouble is.
func (s *source) askOrStale(ctx context.Context, principal oci.Principal, repo string, copied bool, ask func(context.Context) error) error {
	if !copied {
		return ask(ctx)
	}
	key := s.repoKey(principal, repo)
	why, wait := s.trouble(principal, repo), staleWait
	left, _, slow := s.c.slow.Held(key)
	if why != nil || slow {
		wait = tryWait
	}
	if slow && left > slowFor-tryWait {
		wait = 0 // the question is put, and not waited for
	}
	waiting, cancel := context.WithTimeoutCause(ctx, wait, errStaleWait)
	defer cancel()
	err := ask(waiting)
	switch {
	case !errors.Is(err, errStaleWait):
		return err
	case why != nil:
	case wait > 0 && !principal.Shared() && s.c.insistence.waits(key): // to the shared one nothing is secret
		return s.unsent(repo)
	default:
		why = s.late(repo)
	}
	if wait > 0 {
		s.c.slow.For(s.u.Organisation, key, slowFor, nil)
	}
	return why
}

// trouble is why the registry, which fails for everybody, is not worth waiting for; nil:
// it is.
func (s *source) trouble(principal oci.Principal, repo string) error {
	if t, ok := s.as(principal).(troubled); ok {
		return t.Trouble(repo)
	}
	return nil
}

func (s *source) late(repo string) error {
	return &oci.Error{Class: oci.Timeout, Message: fmt.Sprintf("%s, asked for %s, did not answer in time; try again later", s.u.Spec.Name, repo), Err: errStaleWait}
}

// unsent is the error of a question that a limit of ours has not let out so far. The
// registry has not been silent: what is kept stays where it is.
func (s *source) unsent(repo string) error {
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusServiceUnavailable, Code: oci.CodeUnknown, Rule: "limits.rate", RetryAfter: time.Second, Err: errStaleWait,
		Message: fmt.Sprintf("organisation %s asks %s for more than its limits let out at once (limits.rate, upstream.connections): %s could not be asked for yet; pull again in a moment", s.u.Organisation, s.u.Spec.Name, repo),
	}
}

// answerOf sorts an upstream's error as proof.AnswerOf does, but for registries
// whose images are kept when they are deleted there, and for the shared principal, to
// which nothing is secret: an answer that is not understood, or a limit, is none.
func (s *source) answerOf(principal oci.Principal, err error) proof.Answer {
	switch answer := proof.AnswerOf(err); {
	case s.tolerates404(err):
		return proof.Kept
	case answer.Doubtful() && principal.Shared():
		return proof.Indeterminate
	default:
		return answer
	}
}

// tolerates404 says whether err is a 404 that takes nothing away here. One about the
// whole repository does: so does a registry answer that hides what one may not see.
func (s *source) tolerates404(err error) bool {
	return s.u.Spec.OnNotFound == registry.Keep && err != nil && !oci.AsError(err).NotUnderstood && oci.ClassOf(err) == oci.NotFound && oci.AsError(err).WireCode() != oci.CodeNameUnknown
}

// kept is what counts for o, which the registry no longer has: that it was there, however
// long ago, and that principal still reads the repository.
func (s *source) kept(ctx context.Context, state proof.State, principal oci.Principal, o oci.Object) proof.State {
	s.stillReads(ctx, principal, o.Repo, o.Digest)
	state.Access, _ = s.proofs.Access(s.accessKey(principal, o.Repo, o.Digest))
	if s.proofs.HadMember(s.memberKey(o)) {
		state.Member = max(state.Member, proof.Grace)
	}
	return state
}

// stillReads has the registry asked, as principal, for other manifests of a repository
// where it answers 404 for d and what principal had proven is over. A registry that hides
// what one may not see answers 404 too: only another of them, shown, tells that he may
// still read here. Whoever never could is not asked for.
func (s *source) stillReads(ctx context.Context, principal oci.Principal, repo string, d oci.Digest) {
	key := s.accessKey(principal, repo, d)
	if age, _ := s.proofs.Access(key); age != proof.None || key.Digest != "" || !s.proofs.HadAccess(key) {
		return
	}
	for _, other := range s.proofs.ManifestsOf(s.origin, repo, othersAsked+1) {
		if other == d {
			continue
		}
		if _, err := s.ask(ctx, principal, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: other}); err == nil {
			return
		}
	}
}

// othersAsked is how many others are asked for at most.
const othersAsked = 3
