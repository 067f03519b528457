package policy

import (
	"context"
	"fmt"
	"io"
	"time"

	"berth/cache/proof"
	"berth/oci"
)

// At is which registry is asked, and for whom.
type At struct {
	Registry     string // its name
	Origin       string // oci.Origin.Dir
	Organisation string // empty: nobody
}

// Around lets through what p allows. Without any rule it is next itself.
func Around(next oci.Source, p Policy, at At, notes *proof.Proofs, now func() time.Time) oci.Source {
	if len(p) == 0 {
		return next
	}
	return &source{next: next, policy: p, at: at, notes: notes, now: now}
}

type source struct {
	next   oci.Source
	policy Policy
	at     At
	notes  *proof.Proofs
	now    func() time.Time
}

func (s *source) name(repo string) string { return s.at.Registry + "/" + repo }

// Principal is as whom repo is asked.
func (s *source) Principal(repo string) oci.Principal { return s.next.Principal(repo) }

// Resolve says what tag means, or meant before it moved.
func (s *source) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	if r := s.policy.tag(s.name(repo), tag); r != nil {
		return oci.Resolution{}, s.refused(repo, ":"+tag, r)
	}
	before := s.before(repo, tag)
	r, err := s.next.Resolve(ctx, repo, tag)
	if err != nil {
		return r, err
	}
	moved := r.Digest
	if r, err = s.cooled(ctx, repo, tag, before, r); err != nil {
		return r, err
	}
	if !s.byImage(repo) {
		return r, nil
	}
	if moved != r.Digest { // cooldown holds the tag, and not who names the new image by its digest
		s.tagged(repo, tag, moved)
	}
	n := s.tagged(repo, tag, r.Digest)
	if s.policy.limitsSize() && n.Size == nil {
		// A tag must not promise what its manifest is refused for.
		if _, err := s.openManifest(ctx, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: r.Digest}); err != nil {
			return oci.Resolution{}, err
		}
		return r, nil
	}
	if refused := s.manifest(repo, &n); refused != nil {
		return oci.Resolution{}, s.refused(repo, ":"+tag, refused)
	}
	return r, nil
}

// byImage says whether rules about tags or sizes decide here, for which it counts of
// which image something is.
func (s *source) byImage(repo string) bool {
	return s.policy.byImage(s.name(repo)) != nil
}

// Stat says what Open would give.
func (s *source) Stat(ctx context.Context, o oci.Object) (*oci.Content, error) {
	read, err := s.mayOpen(o)
	switch {
	case err != nil:
		return nil, err
	case !read || !s.policy.limitsSize() || s.note(o.Repo, o.Kind, o.Digest).Size != nil:
		c, err := s.next.Stat(ctx, o)
		return s.small(o, c, err)
	}
	return s.openManifest(ctx, o)
}

// Open gives an object that may be pulled.
func (s *source) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	read, err := s.mayOpen(o)
	if err != nil {
		return nil, err
	}
	if read {
		return s.openManifest(ctx, o)
	}
	c, err := s.next.Open(ctx, o, r)
	return s.small(o, c, err)
}

// small refuses a blob that is larger than a whole image may be, whatever the manifest
// that lists it says about its size.
func (s *source) small(o oci.Object, c *oci.Content, err error) (*oci.Content, error) {
	if err != nil || o.Kind == oci.Manifest {
		return c, err
	}
	if refused := s.policy.size(c.Size); refused != nil {
		c.Close()
		return nil, s.refused(o.Repo, "@"+o.Digest.String(), refused)
	}
	if c.Size < 0 && c.Body != nil && s.policy.limitsSize() {
		c.Body = &growing{ReadCloser: c.Body, refuse: func(size int64) error {
			if refused := s.policy.size(size); refused != nil {
				return s.refused(o.Repo, "@"+o.Digest.String(), refused)
			}
			return nil
		}}
	}
	return c, nil
}

// growing is a body of unknown size. It ends with an error where it is larger than a
// whole image may be: the registry decides what its manifests say.
type growing struct {
	io.ReadCloser

	size   int64
	refuse func(size int64) error
}

func (g *growing) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	g.size += int64(n)
	if refused := g.refuse(g.size); refused != nil {
		return 0, refused
	}
	return n, err
}

// mayOpen says whether o may be asked for. read: it is a manifest that has to be read
// for what it lists.
func (s *source) mayOpen(o oci.Object) (read bool, err error) {
	refused := s.policy.repository(s.name(o.Repo))
	if refused == nil && s.byImage(o.Repo) {
		if o.Kind == oci.Manifest {
			n := s.note(o.Repo, oci.Manifest, o.Digest)
			read, refused = !s.settled(o.Repo, &n), s.manifest(o.Repo, &n)
		} else {
			refused = s.blob(o.Repo, o.Digest)
		}
	}
	if refused != nil {
		return false, s.refused(o.Repo, "@"+o.Digest.String(), refused)
	}
	return read, nil
}

// manifest says what refuses the manifest that n is about, as far as it is known. Where
// tags decide, one that may be pulled must have meant it, or an index that one meant must
// list it.
func (s *source) manifest(repo string, n *note) *Refusal {
	if n.Size != nil {
		if r := s.policy.size(*n.Size); r != nil {
			return r
		}
	}
	refused := s.policy.byTag(s.name(repo))
	if refused == nil || s.meant(repo, n, &refused) {
		return nil
	}
	for _, index := range n.In {
		if in := s.note(repo, oci.Manifest, index); s.meant(repo, &in, &refused) {
			return nil
		}
	}
	return refused
}

// meant says whether a tag that may be pulled meant what n is about. Else refused is
// what refuses the last that did, if one did.
func (s *source) meant(repo string, n *note, refused **Refusal) bool {
	for _, tag := range n.Tags {
		r := s.policy.first(func(r *Rules) *Refusal { return r.tagItself(s.name(repo), tag) })
		if r == nil {
			return true
		}
		*refused = r
	}
	return false
}

// blob says what refuses blob d: it is allowed if a manifest is that lists it.
func (s *source) blob(repo string, d oci.Digest) *Refusal {
	refused := s.policy.byImage(s.name(repo))
	listed := s.note(repo, oci.Blob, d).In
	if len(listed) == 0 {
		s.missed(repo)
	}
	for _, in := range listed {
		n := s.note(repo, oci.Manifest, in)
		r := s.manifest(repo, &n)
		if r == nil {
			return nil
		}
		refused = r
	}
	return refused
}

// byImage is the first rule for which it counts of which image of name something is.
func (p Policy) byImage(name string) *Refusal {
	if r := p.byTag(name); r != nil {
		return r
	}
	return p.sizeRule()
}

// sizeRule refuses a blob of which nobody knows what image it is of.
func (p Policy) sizeRule() *Refusal {
	return p.first(func(r *Rules) *Refusal {
		if r.MaxImageSize == 0 {
			return nil
		}
		return refusal("max_image_size", inBytes(r.MaxImageSize), r.MaxImageSizeAt, "RULE decides by the image, and none that lists it was pulled here: pull the manifest first")
	})
}

// maxListed bounds what an image may list where rules about tags or sizes decide: each
// entry is noted. Docker takes 127 layers.
const maxListed = 1000

// openManifest opens a manifest that nothing has refused yet, and notes what it lists
// if nothing does then either.
func (s *source) openManifest(ctx context.Context, o oci.Object) (*oci.Content, error) {
	c, err := s.next.Open(ctx, o, oci.Range{})
	if err != nil {
		return nil, err
	}
	doc, err := oci.ParseManifest(c.Data)
	if err != nil {
		return nil, &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("%s@%s cannot be judged: %v", s.name(o.Repo), o.Digest, err)}
	}
	if many := len(doc.Blobs()) + len(doc.Manifests); many > maxListed {
		rule := s.policy.byImage(s.name(o.Repo)).Rule
		return nil, s.refused(o.Repo, "@"+o.Digest.String(), &Refusal{rule, fmt.Sprintf("it lists %d objects, and %s judges images of at most %d", many, rule, maxListed)})
	}
	size := sizeOf(doc)
	s.sized(o.Repo, o.Digest, size)
	if refused := s.policy.size(size); refused != nil {
		return nil, s.refused(o.Repo, "@"+o.Digest.String(), refused)
	}
	s.listed(o.Repo, o.Digest, doc)
	return c, nil
}

// List asks for tags or referrers, which are those of the repository.
func (s *source) List(ctx context.Context, req oci.ListRequest) (*oci.Page, error) {
	if r := s.policy.repository(s.name(req.Repo)); r != nil {
		return nil, s.refused(req.Repo, "", r)
	}
	return s.next.List(ctx, req)
}

// refused is the answer that r refuses repo with; ref is a tag or a digest with what
// it is written behind.
func (s *source) refused(repo, ref string, r *Refusal) error {
	who := ""
	if s.at.Organisation != "" {
		who = "organisation " + s.at.Organisation + ": "
	}
	return &oci.Error{
		Class: oci.Policy, Rule: r.Rule,
		Message: fmt.Sprintf("%s%s%s may not be pulled: %s", who, s.name(repo), ref, r.Why),
	}
}
