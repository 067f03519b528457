package cache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/cache/proof"
	"berth/oci"
)

// maxImages bounds a list of images.
const maxImages = 100_000

// Image is an image that is kept, for people.
type Image struct {
	// Origin is the folder of where it is from (oci.Origin.Dir).
	Origin     string
	Repository string
	// Tags are what it was called by, to anyone, when it was last asked.
	Tags   []string
	Digest oci.Digest
	// Platform according to the index that lists it; often empty.
	Platform string
	// Size is the bytes that are kept, of Of in all. Layers that images share count in each.
	Size, Of int64
	// LastUse of any part of it, to the minute.
	LastUse time.Time
}

// repository is one at an origin.
type repository struct{ origin, repo string }

// listing is what is known about the images of one repository.
type listing struct {
	manifests []oci.Digest
	tags      map[oci.Digest][]string
}

// listings are what is known of the images of each repository, whether it is here or not.
func (c *Cache) listings(ctx context.Context) (map[repository]*listing, error) {
	all := map[repository]*listing{}
	of := func(origin, repo string) *listing {
		s, ok := all[repository{origin, repo}]
		if !ok {
			s = &listing{tags: map[oci.Digest][]string{}}
			all[repository{origin, repo}] = s
		}
		return s
	}
	seen := 0
	err := c.proofs.Known(ctx, func(m proof.Member) {
		if seen++; m.Kind == oci.Manifest && seen <= 10*maxImages {
			s := of(m.Origin, m.Repo)
			s.manifests = append(s.manifests, m.Digest)
		}
	}, func(k proof.TagKey, t proof.Tag) {
		if s := all[repository{k.Origin, k.Repo}]; s != nil && !slices.Contains(s.tags[t.Digest], k.Tag) {
			s.tags[t.Digest] = append(s.tags[t.Digest], k.Tag)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing what is known: %w", err)
	}
	return all, nil
}

// Images are those whose manifest is here, by repository. Looking is no use of
// them, and says nothing about who may have them.
func (c *Cache) Images(ctx context.Context) ([]Image, error) {
	listings, err := c.listings(ctx)
	if err != nil {
		return nil, err
	}
	var all []Image
	for at, s := range listings {
		all = append(all, c.imagesAt(at, s)...)
		if len(all) > maxImages || ctx.Err() != nil {
			break
		}
	}
	slices.SortFunc(all, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Origin, b.Origin), strings.Compare(a.Repository, b.Repository),
			slices.Compare(a.Tags, b.Tags), strings.Compare(a.Platform, b.Platform), strings.Compare(a.Digest.String(), b.Digest.String()))
	})
	return all, ctx.Err()
}

// documents are the manifests of a repository that are here. What an index is called
// by, the images in it are, and it says for which platform they are.
func (c *Cache) documents(at repository, s *listing) (all map[oci.Digest]*oci.Document, platforms map[oci.Digest]string) {
	platforms = map[oci.Digest]string{}
	all = map[oci.Digest]*oci.Document{}
	known := make(map[oci.Digest]bool, len(s.manifests))
	for _, d := range s.manifests {
		known[d] = true
	}
	for _, d := range s.manifests {
		text := c.lookUp(at.origin, d)
		doc, err := oci.ParseManifest(text)
		if err != nil {
			continue
		}
		all[d] = doc
		for _, m := range doc.Manifests {
			child := m.Digest
			if !known[child] { // an index can list anything
				continue
			}
			s.tags[child] = append(s.tags[child], s.tags[d]...)
			if m.Platform != nil {
				platforms[child] = oci.OneLine(m.Platform.OS+"/"+m.Platform.Architecture, 60)
			}
		}
	}
	return all, platforms
}

// lookUp reads a manifest from wherever it lies; nil: it is not here any more.
func (c *Cache) lookUp(origin string, d oci.Digest) []byte {
	s := c.folder.store()
	for _, folder := range s.Folders(origin) {
		if text, err := s.Look(folder, d, oci.MaxManifest); err == nil {
			return text
		}
	}
	return nil
}

// stat says how large a blob is and when it was used last, wherever it lies.
func (c *Cache) stat(origin string, d oci.Digest) (size int64, used time.Time, err error) {
	s := c.folder.store()
	for _, folder := range s.Folders(origin) {
		if size, used, err = s.Stat(folder, d); err == nil {
			break
		}
	}
	return size, used, err
}

// imagesAt are the images of one repository.
func (c *Cache) imagesAt(at repository, s *listing) (all []Image) {
	documents, platforms := c.documents(at, s)
	for d, doc := range documents {
		if doc.Index() {
			continue
		}
		tags := slices.Clone(s.tags[d])
		slices.Sort(tags)
		i := Image{Origin: at.origin, Repository: at.repo, Tags: slices.Compact(tags), Digest: d, Platform: platforms[d]}
		i.measure(c, at.origin, doc)
		all = append(all, i)
	}
	return all
}

// measure adds up what of the image is here.
func (i *Image) measure(c *Cache, origin string, doc *oci.Document) {
	size, used, _ := c.stat(origin, i.Digest)
	i.Size, i.Of, i.LastUse = size, size, used
	for _, d := range doc.Blobs() {
		i.Of += max(d.Size, 0)
		checked, err := oci.ParseDigest(string(d.Digest))
		if err != nil {
			continue
		}
		if size, used, err := c.stat(origin, checked); err == nil {
			i.Size += size
			if used.After(i.LastUse) {
				i.LastUse = used
			}
		}
	}
}

// held names the manifests that are held, the images of an index that are here, and what
// these list, wherever it lies.
func (c *Cache) held(ctx context.Context, keep func(folder string, d oci.Digest)) {
	if c.o.Held == nil {
		return
	}
	everywhere := func(origin string, d oci.Digest) {
		for _, folder := range c.folder.store().Folders(origin) {
			keep(folder, d)
		}
	}
	c.o.Held(ctx, func(origin string, d oci.Digest) { c.whole(origin, d, everywhere, 1) })
}

// whole names a manifest and all that belongs to it, as deep as an index of images goes.
func (c *Cache) whole(origin string, d oci.Digest, keep func(origin string, d oci.Digest), deeper int) {
	text := c.lookUp(origin, d)
	if text == nil {
		return // it is not here
	}
	keep(origin, d)
	doc, err := oci.ParseManifest(text)
	if err != nil {
		return
	}
	for _, b := range doc.Blobs() {
		if checked, err := oci.ParseDigest(string(b.Digest)); err == nil {
			keep(origin, checked)
		}
	}
	for _, m := range doc.Manifests {
		if checked, err := oci.ParseDigest(string(m.Digest)); err == nil && deeper > 0 {
			c.whole(origin, checked, keep, deeper-1)
		}
	}
}
