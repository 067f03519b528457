package cache

import (
	"context"

	"berth/cache/proof"
	"berth/oci"
)

// Choice says what Remove deletes.
type Choice struct {
	// Image says whether the manifest of this digest, kept for a repository and called by
	// these tags, is to go. If nil, none of that kind is.
	Image func(origin, repo string, tags []string, d oci.Digest) bool
	// Content is a digest that goes wherever it is kept. If empty, none does.
	Content oci.Digest
}

// Removed is what Remove did.
type Removed struct {
	// Manifests that were deleted, and Blobs: layers and configurations.
	Manifests, Blobs int
	// Shared are blobs that stay, since an image that stays lists them.
	Shared int
	// Freed is what the disk has got back, in bytes.
	Freed int64
}

// Remove deletes what is kept of images: their manifests, and the blobs that no image
// lists that stays at the same origin. Pulls that run go on. Who may have an image is
// another matter (Forget): the next pull of one that may fetches it again.
func (c *Cache) Remove(ctx context.Context, what Choice) (Removed, error) {
	listings, err := c.listings(ctx)
	if err != nil {
		return Removed{}, err
	}
	r := removal{c: c, content: what.Content, manifests: map[hotKey]bool{}, blobs: map[hotKey]bool{}, shared: map[hotKey]bool{}}
	stay := func(at repository, s *listing, d oci.Digest) bool {
		return d != what.Content && (what.Image == nil || !what.Image(at.origin, at.repo, s.tags[d], d))
	}
	for at, s := range listings {
		r.choose(at, s, stay)
		if ctx.Err() != nil {
			return Removed{}, ctx.Err()
		}
	}
	for at, s := range listings {
		r.spare(at, s, stay)
	}
	r.everywhere(listings, what.Content)
	return r.removed, r.do(ctx)
}

// removal is a Remove that runs. Its keys are files: one at an origin, whatever
// repositories it is kept for.
type removal struct {
	c                        *Cache
	content                  oci.Digest // goes wherever it is
	manifests, blobs, shared map[hotKey]bool
	removed                  Removed
}

// choose notes the manifests that are to go, and what they list.
func (r *removal) choose(at repository, s *listing, stay func(repository, *listing, oci.Digest) bool) {
	documents, _ := r.c.documents(at, s)
	for d, doc := range documents {
		if stay(at, s, d) {
			continue
		}
		r.manifests[hotKey{at.origin, d}] = true
		for _, b := range doc.Blobs() {
			if checked, err := oci.ParseDigest(string(b.Digest)); err == nil {
				r.blobs[hotKey{at.origin, checked}] = true
			}
		}
	}
}

// spare takes out of that what an image lists that stays, and manifests that another
// repository has too. An index that stays keeps its images, also those that bear the tag
// of an index that goes.
func (r *removal) spare(at repository, s *listing, stay func(repository, *listing, oci.Digest) bool) {
	if len(r.manifests) == 0 {
		return
	}
	documents, _ := r.c.documents(at, s)
	for d, doc := range documents {
		if !stay(at, s, d) {
			continue
		}
		r.keep(hotKey{at.origin, d}, doc)
		for _, m := range doc.Manifests {
			if child := documents[m.Digest]; child != nil && m.Digest != r.content {
				r.keep(hotKey{at.origin, m.Digest}, child)
			}
		}
	}
}

// keep lets a manifest stay, and what it lists.
func (r *removal) keep(key hotKey, doc *oci.Document) {
	delete(r.manifests, key)
	for _, b := range doc.Blobs() {
		checked, err := oci.ParseDigest(string(b.Digest))
		if blob := (hotKey{key.origin, checked}); err == nil && r.blobs[blob] {
			r.shared[blob] = true
		}
	}
}

// everywhere notes a digest at every origin, whether anything lists it or not.
func (r *removal) everywhere(listings map[repository]*listing, d oci.Digest) {
	if d == "" {
		return
	}
	for at := range listings {
		key := hotKey{at.origin, d}
		if _, _, err := r.c.stat(at.origin, d); err == nil && !r.manifests[key] {
			r.blobs[key] = true
		}
		delete(r.shared, key)
	}
}

// do deletes. The first error of the disk is returned when the rest is done.
func (r *removal) do(ctx context.Context) error {
	var failed error
	remove := func(key hotKey, count *int) {
		store, gone := r.c.folder.store(), 0
		for _, folder := range store.Folders(key.origin) {
			r.c.hot.Remove(hotKey{folder, key.digest})
			_, _, err := store.Stat(folder, key.digest)
			there := err == nil
			freed, err := store.Remove(folder, key.digest)
			switch {
			case err != nil && failed == nil:
				failed = err
			case err == nil && there:
				gone = 1
				r.removed.Freed += freed
			}
		}
		*count += gone
	}
	// Manifests first: what is left of an image after an error is not listed any more,
	// and its blobs are evicted like others.
	for key := range r.manifests {
		remove(key, &r.removed.Manifests)
	}
	for key := range r.blobs {
		if r.shared[key] {
			r.removed.Shared++
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		remove(key, &r.removed.Blobs)
	}
	return failed
}

// Of are the repositories, by origin, that an organisation has proven it may pull from, and
// those of them that nobody else has, as far as the last 30 days tell.
func (c *Cache) Of(ctx context.Context, organisation string) (all, only func(origin, repo string) bool, err error) {
	its, others := map[repository]bool{}, map[repository]bool{}
	err = c.proofs.Proven(ctx, func(a proof.Access) {
		if a.Principal.Organisation == organisation {
			its[repository{a.Origin, a.Repo}] = true
		} else {
			others[repository{a.Origin, a.Repo}] = true
		}
	})
	all = func(origin, repo string) bool { return its[repository{origin, repo}] }
	only = func(origin, repo string) bool {
		at := repository{origin, repo}
		return its[at] && !others[at]
	}
	return all, only, err
}
