package cache

import (
	"context"
	"sync"
	"time"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/cache/store"
	"berth/fleet"
	"berth/fleet/seal"
	"berth/internal/share"
	"berth/oci"
)

// fleetState is what the cache knows for the fleet's sake.
type fleetState struct {
	tier *fleet.Tier
	// public is when the registry has shown everyone a manifest.
	public *share.LRU[proof.Member, time.Time]

	mu sync.Mutex
	// objects are those of the downloads that run.
	objects map[download.Key]*fleet.Object
}

const (
	// publicWait is how long a pull waits to be told that everyone may see an image.
	publicWait = time.Second
	// publicFor is how long it counts that everyone may see an image.
	publicFor = 24 * time.Hour
)

func newFleetState(t *fleet.Tier) *fleetState {
	if t == nil {
		return nil
	}
	return &fleetState{
		tier: t, public: share.New[proof.Member, time.Time](16384, nil), objects: map[download.Key]*fleet.Object{},
	}
}

// scoped is s for what comes out of the fleet.
type scoped struct {
	*source

	scopes []seal.Scope
}

// scoped gives the parts of the fleet that principal may have bytes of repo out of, and
// s for what came from there; ok is false where it has none.
func (s *source) scoped(ctx context.Context, principal oci.Principal, o oci.Object) (_ scoped, ok bool) {
	bytes, scopes := proof.FromPublic, s.c.fleet.tier.Public()
	if !s.isPublic(ctx, principal, o) {
		bytes, scopes = proof.FromScope, nil
		if s.u.Scopes != nil && !principal.Shared() {
			scopes = s.u.Scopes(ctx, o.Repo)
		}
	}
	if len(scopes) == 0 || s.Principal(o.Repo) != principal { // the account was changed meanwhile
		return scoped{}, false
	}
	there := s.in(bytes, scopes[0])
	s.c.counts.know(there.place.folder, s.u.Spec.Label())
	return scoped{there, scopes}, true
}

// in is s for what came out of a scope of the fleet.
func (s *source) in(bytes proof.Bytes, scope seal.Scope) *source {
	there := *s
	there.place = place{folder: download.Folder(s.origin, scope.ID()), scope: scope.ID(), bytes: bytes}
	return &there
}

// places are s, and s for what may have come here out of the fleet for its account.
func (s *source) places(repo string) []*source {
	all := []*source{s}
	if s.c.fleet == nil || s.place.scope != "" {
		return all
	}
	if public := s.c.fleet.tier.Public(); len(public) > 0 {
		all = append(all, s.in(proof.FromPublic, public[0]))
	}
	if s.u.Scopes != nil {
		if own := s.u.Scopes(context.Background(), repo); len(own) > 0 {
			all = append(all, s.in(proof.FromScope, own[0]))
		}
	}
	return all
}

// isPublic says whether the registry shows everyone what it shows principal: the manifest,
// or the one that lists the blob. Where that is not known one anonymous HEAD asks;
// registries do not count those. That everyone was shown another manifest of the
// repository says nothing: what is pushed to one that has become private meanwhile must
// not get out.
func (s *source) isPublic(ctx context.Context, principal oci.Principal, o oci.Object) bool {
	switch {
	case !s.u.Spec.Uniform() || s.u.Spec.Organisation != "":
		return false
	case principal.Shared():
		return true
	case s.shared == nil:
		return false
	}
	if o.Kind == oci.Blob {
		l, ok := s.c.lists.listed.Get(s.memberKey(o))
		if !ok {
			return false
		}
		o = oci.Object{Repo: o.Repo, Kind: oci.Manifest, Digest: l.by.Digest}
	}
	everyone, now := s.shared.Principal(o.Repo), s.c.o.Now()
	key := s.accessKey(everyone, o.Repo, o.Digest)
	age, _ := s.proofs.Access(key) // None once somebody was refused
	if at, ok := s.c.fleet.public.Get(s.memberKey(o)); ok && age != proof.None && now.Sub(at) < publicFor {
		return true
	}
	if _, why, held := s.c.private.Held(key); held && why == nil || !everyone.Shared() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, publicWait)
	defer cancel()
	_, err := s.shared.ask(ctx, everyone, o)
	s.notPublic(key, err)
	if err != nil {
		return false
	}
	s.c.fleet.public.Add(s.u.Organisation, s.memberKey(o), now)
	return true
}

// openWithFleet opens what the registry itself has not brought here: from what came out of
// the fleet before, or by a download in which the fleet has a part.
func (s *source) openWithFleet(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range) (*oci.Content, error) {
	if err := s.c.knownMissing(s.questionKey(principal, o)); err != nil {
		return nil, err // the same 404 as for a cached one, so that nobody can probe the cache
	}
	there, ok := s.scoped(ctx, principal, o)
	if !ok {
		return s.fetch(ctx, principal, o, r)
	}
	content, err := there.cached(o)
	if content != nil || err != nil {
		return there.release(ctx, principal, o, r, content, err)
	}
	if o.Kind == oci.Manifest {
		return there.openManifest(ctx, principal, o, s)
	}
	if s.c.downloads.Running(s.blobKey(o)) {
		return s.fetch(ctx, principal, o, r)
	}
	l, ok := s.c.lists.listed.Get(s.memberKey(o))
	if !ok { // nobody knows how large it is
		return s.fetch(ctx, principal, o, r)
	}
	there.share = func() download.Share { return there.begin(o, l.size) }
	return there.fetch(ctx, principal, o, r)
}

// openManifest gives a manifest that another node has fetched, and else lets origin, which
// is s for what the registry sends itself, fetch it for the others too.
func (s scoped) openManifest(ctx context.Context, principal oci.Principal, o oci.Object, origin *source) (*oci.Content, error) {
	data, keep := s.c.fleet.tier.Manifest(ctx, s.scopes, s.origin, o.Digest)
	if data != nil {
		e, _, err := s.keep(o, data)
		if err != nil {
			return nil, err
		}
		return s.release(ctx, principal, o, oci.Range{}, e.content(o), nil)
	}
	content, err := origin.fetch(ctx, principal, o, oci.Range{})
	if err == nil && (content.Result == oci.Fill || content.Result == oci.Pass) {
		keep(content.Data)
	} else { // it failed, or came for somebody else: what is another's is not put into this scope
		keep(nil)
	}
	return content, err
}

// begin makes the object of a download that has just begun.
func (s scoped) begin(o oci.Object, size int64) download.Share {
	c, key := s.c.fleet, s.blobKey(o)
	object := c.tier.Object(s.u.Organisation, s.scopes, s.origin, o.Digest, size)
	if object == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[key] = object
	return fleetShare{object, c, key}
}

// fleetShare is an object as a download has it.
type fleetShare struct {
	*fleet.Object

	c   *fleetState
	key download.Key
}

// Grows says where the blob's bytes come.
func (s fleetShare) Grows(b *store.Blocks) { s.Object.Grows(b) }

// Over ends the object's part in the download.
func (s fleetShare) Over() {
	s.c.mu.Lock()
	delete(s.c.objects, s.key)
	s.c.mu.Unlock()
	s.Object.Over()
}

// fleetObject is the object of the download that runs for what a asks for; nil: the fleet
// has no part in it.
func (a *asker) fleetObject() *fleet.Object {
	c := a.s.c.fleet
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objects[a.s.blobKey(a.object)]
}

// listedAge is what the proof of a manifest that lists o is worth, or of the index that
// lists that manifest: with an index most clients ask for no manifest by itself before. It
// counts for public bytes only.
func (s *source) listedAge(o oci.Object) proof.Age {
	age := proof.None
	for range 2 {
		l, ok := s.c.lists.listed.Get(s.memberKey(o))
		if !ok {
			break
		}
		age = max(age, s.proofs.Member(l.by))
		o = oci.Object{Repo: o.Repo, Kind: oci.Manifest, Digest: l.by.Digest}
	}
	return age
}
