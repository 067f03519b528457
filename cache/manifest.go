package cache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"berth/cache/download"
	"berth/internal/flight"
	"berth/internal/span"
	"berth/oci"
)

// manifestTimeout bounds the GET of a manifest, which belongs to none of those who
// wait for it.
const manifestTimeout = time.Minute

// fetchManifest gets a manifest that is not here. It arrives whole and verified in
// memory, so it needs no download: one GET, which registries count, for everyone
// who misses it meanwhile in the same repository (of Docker Hub, in any: see possession.go).
//
// A request with the principal and the repository that the GET was sent with
// shares its answer. Any other proves itself with a HEAD and takes the bytes of
// that GET; if the GET was refused, it sends its own.
func (s *source) fetchManifest(ctx context.Context, principal oci.Principal, o oci.Object) (*oci.Content, error) {
	key, own := s.blobKey(o), requester{principal, o.Repo}
	var admitted *oci.Outcome // of a request that has proven itself
	for range 5 {             // each time round somebody else made progress
		get := s.c.manifests.joinOrStart(ctx, s, key, own, o)
		if get.call == nil { // it has come meanwhile
			if content, err := s.cached(o); content != nil || err != nil {
				return s.release(ctx, principal, o, oci.Range{}, content, err)
			}
			continue
		}
		if get.requester != own && admitted == nil {
			outcome, err := s.admit(ctx, principal, o, false)
			if err != nil {
				return nil, err
			}
			admitted = &outcome
		}
		leave := s.c.manifests.addWaiter(key, s.u.Organisation)
		m, err := get.call.Wait(ctx)
		leave()
		if err == nil {
			return m.content(o, get, admitted), nil
		}
		if get.requester == own || ctx.Err() != nil {
			return nil, err
		}
		if err = download.ErrorFor(principal, o.Repo, o.Digest, err); !errors.Is(err, download.ErrRetry) {
			return nil, err
		}
	}
	return nil, endsEarly(o.Digest)
}

func endsEarly(d oci.Digest) error {
	return &oci.Error{Class: oci.UpstreamError, Message: "the download of " + d.String() + " keeps ending early; try again"}
}

// requester is as whom a GET is sent, and of what repository.
type requester struct {
	principal oci.Principal
	repo      string
}

// manifest is one that was fetched.
type manifest struct {
	hotEntry

	asked   time.Time
	kept    bool   // it goes to the disk
	warning string // a mirror stood in
}

// content answers one of those who waited. admitted is how a request that did not
// share the requester's answer was let in.
func (m manifest) content(o oci.Object, get manifestGet, admitted *oci.Outcome) *oci.Content {
	c := m.hotEntry.content(o)
	switch {
	case get.started && m.kept:
		c.Result, c.Asked = oci.Fill, m.asked
	case get.started:
		c.Result, c.Asked = oci.Pass, m.asked
	default:
		c.Result = oci.Join
	}
	c.Warning = m.warning
	if admitted != nil {
		c.Warning = admitted.Warning
	}
	return c
}

// manifestGets are the GETs of manifests that are under way, one for each object.
type manifestGets struct {
	calls *flight.Group[manifestGetKey, manifest]

	mu         sync.Mutex
	requesters map[download.Key]requester
	waiting    map[download.Key][]string // organisations, once for each request
}

type manifestGetKey struct {
	download.Key
	requester
}

func newManifestGets() *manifestGets {
	return &manifestGets{calls: flight.New[manifestGetKey, manifest](manifestTimeout), requesters: map[download.Key]requester{}, waiting: map[download.Key][]string{}}
}

// manifestGet is a GET, as whom it was sent, and whether the caller made it start.
type manifestGet struct {
	call *flight.Call[manifest]
	requester
	started bool
}

// joinOrStart joins the GET that is under way or sends one as own. Without a call the
// manifest is in memory by now.
func (g *manifestGets) joinOrStart(first context.Context, s *source, key download.Key, own requester, o oci.Object) manifestGet {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, under := g.requesters[key]
	if !under {
		if _, ok := s.hotManifest(key.Digest); ok && !s.unshown(o) {
			return manifestGet{}
		}
		at = own
		g.requesters[key] = own
	}
	memory := oci.MemoryOf(first)
	call, started := g.calls.Start(manifestGetKey{key, at}, func(ctx context.Context) (manifest, error) {
		defer g.ended(key)
		ctx = oci.Along(ctx, func() []string { return g.organisations(key) })
		return s.getManifest(span.With(oci.WithMemory(ctx, memory), span.Of(first)), at.principal, o)
	})
	return manifestGet{call: call, requester: at, started: started}
}

// addWaiter notes that organisation waits for the manifest, until leave: whoever of those that
// wait has room pays for it.
func (g *manifestGets) addWaiter(key download.Key, organisation string) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting[key] = append(g.waiting[key], organisation)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		i := slices.Index(g.waiting[key], organisation)
		if g.waiting[key] = slices.Delete(g.waiting[key], i, i+1); len(g.waiting[key]) == 0 {
			delete(g.waiting, key)
		}
	}
}

func (g *manifestGets) organisations(key download.Key) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.waiting[key])
}

func (g *manifestGets) ended(key download.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.requesters, key)
}

// getManifest sends the GET as principal and keeps what comes: in memory before
// anyone is answered, on the disk after that.
func (s *source) getManifest(ctx context.Context, principal oci.Principal, o oci.Object) (m manifest, err error) {
	undo, err := s.spendShare(principal)
	if err != nil {
		return manifest{}, err
	}
	a := s.asker(ctx, principal, o)
	content, err := a.Open(ctx, oci.Range{})
	if err != nil {
		if !oci.AsError(err).Counted {
			undo()
		}
		return manifest{}, err
	}
	m = manifest{asked: content.Asked, warning: a.Warning()}
	m.hotEntry, m.kept, err = s.keep(o, content.Data)
	return m, err
}

// spendShare takes one of the manifests that the organisation may have as the shared
// principal; undo gives it back. Registries count the GETs of manifests, and nothing else.
func (s *source) spendShare(principal oci.Principal) (undo func(), err error) {
	if s.u.Spend == nil || !principal.Shared() {
		return func() {}, nil
	}
	return s.u.Spend()
}

// keep puts a verified manifest into memory at once, and onto the disk after that.
func (s *source) keep(o oci.Object, data []byte) (e hotEntry, kept bool, err error) {
	if e, err = s.remember(o, data); err != nil {
		return hotEntry{}, false, err
	}
	if s.c.trouble.pastDisk(s.blobKey(o)) {
		s.c.counts.bypassed.Add(1)
		return e, false, nil
	}
	s.c.writes.Go(func() { s.putManifest(o, data) })
	return e, true, nil
}

func (s *source) putManifest(o oci.Object, data []byte) {
	key, size := s.blobKey(o), int64(len(data))
	if err := s.c.folder.there().Put(s.u.Organisation, s.place.folder, o.Digest, data); err != nil {
		s.c.trouble.DiskFailed(key, size, err) // only the cache goes without
		return
	}
	s.c.trouble.Reserved(key, size)
	s.c.trouble.Kept()
}
