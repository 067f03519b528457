package cache

import (
	"cmp"
	"context"
	"errors"
	"time"

	"berth/cache/proof"
	"berth/internal/pause"
	"berth/oci"
)

const (
	// publicEvery is how old a proof that everyone may read a repository gets while it is
	// in use: what stands in for a registry in trouble is to last for half of grace at least.
	publicEvery = 12 * time.Hour
	// publicAfter is how long after a yes to an account that is asked: the pull comes first.
	publicAfter = 30 * time.Second
	// privateFor is how long it counts that not everyone may, and unansweredFor that
	// nobody said.
	privateFor    = 24 * time.Hour
	unansweredFor = time.Minute
)

// errAsking is why a repository is not asked for as everyone: it is going to be.
var errAsking = errors.New("it is being asked")

// askIfPublic has the registry asked, in the background, whether it shows everyone the
// repository that it has just shown principal. Where everyone here has an account nobody
// would ever ask without one, and public images would end with the accounts' proofs, an
// hour after the registry's answers are understood no more. Registries do not count a HEAD.
func (s *source) askIfPublic(principal oci.Principal, o oci.Object) {
	if principal.Shared() || s.shared == nil || o.Kind != oci.Manifest || s.u.Spec.Organisation != "" {
		return
	}
	everyone := s.shared.Principal(o.Repo)
	key := s.accessKey(everyone, o.Repo, o.Digest)
	known := func() bool {
		age, proven := s.proofs.Access(key)
		return age != proof.None && s.c.o.Now().Sub(proven) < publicEvery
	}
	if known() || !everyone.Shared() {
		return
	}
	if _, _, held := s.c.private.Held(key); held {
		return
	}
	s.c.private.For(s.u.Organisation, key, unansweredFor, errAsking)
	s.c.public.Start(key, func(ctx context.Context) (struct{}, error) {
		if err := pause.For(ctx, cmp.Or(s.c.o.PublicAfter, publicAfter)); err != nil {
			return struct{}{}, err
		}
		if known() { // a fleet does not wait so long
			return struct{}{}, nil
		}
		_, err := s.shared.ask(ctx, everyone, o)
		s.notPublic(key, err)
		return struct{}{}, err
	})
}

// notPublic remembers what err says about a repository that was asked for as everyone.
func (s *source) notPublic(key proof.Access, err error) {
	switch class := oci.ClassOf(err); {
	case err == nil:
		s.c.private.Release(key)
	case class.Refuses(), class == oci.NotFound:
		s.c.private.For(s.u.Organisation, key, privateFor, nil)
	default:
		s.c.private.For(s.u.Organisation, key, unansweredFor, nil)
	}
}
