package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"berth/internal/limit"
	"berth/oci"

	"berth/upstream/classify"
)

func (s *source) resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	h, err := s.head(ctx, repo, tag)
	if err != nil {
		return oci.Resolution{}, err
	}
	if h.digest != "" && h.size > 0 && oci.IsManifestType(h.mediaType) {
		return oci.Resolution{
			Descriptor: oci.Descriptor{MediaType: h.mediaType, Digest: h.digest, Size: h.size},
			Outcome:    oci.Outcome{Result: oci.Pass, Asked: h.asked},
		}, nil
	}
	m, err := s.manifest(ctx, repo, tag, "", false)
	if err != nil {
		return oci.Resolution{}, h.after(err)
	}
	return oci.Resolution{Descriptor: m.Descriptor, Outcome: m.Outcome}, nil
}

// statManifest proves that a manifest is there by HEAD. The answer counts when
// it names the right digest, or names none and is about a manifest: whatever
// else answers 200 to everything (a login page) does neither.
func (s *source) statManifest(ctx context.Context, o oci.Object) (*oci.Content, error) {
	h, err := s.head(ctx, o.Repo, o.Digest.String())
	if err != nil {
		return nil, err
	}
	if (h.digest == o.Digest || !h.named) && oci.IsManifestType(h.mediaType) && h.size > 0 {
		return &oci.Content{
			Descriptor: oci.Descriptor{MediaType: h.mediaType, Digest: o.Digest, Size: h.size},
			Outcome:    oci.Outcome{Result: oci.Pass, Asked: h.asked},
			Length:     h.size,
		}, nil
	}
	c, err := s.manifest(ctx, o.Repo, o.Digest.String(), o.Digest, false)
	if err != nil {
		return nil, h.after(err)
	}
	return c, nil
}

// header is what a HEAD said. All of it may be missing.
type header struct {
	mediaType string
	digest    oci.Digest
	named     bool // there was a digest, good or not
	size      int64
	asked     time.Time
	// no is how the HEAD was refused, as far as that is understood without a text;
	// nil: it was not.
	no error
}

// after is what the HEAD and err, of the GET that followed it, come to. Where the GET
// was limited (Docker Hub counts none but those), was not even sent, or was not answered,
// the refusal of the HEAD is the answer: nobody keeps a no away by using up a limit, the
// registry's or ours.
func (h header) after(err error) error {
	switch class := oci.ClassOf(err); {
	case h.no == nil, oci.AsError(err).NotUnderstood:
	case class == oci.RateLimited, class == oci.Policy, class.Indeterminate():
		return h.no
	}
	return err
}

// head asks for the header of a manifest. The zero header, and no error, means
// that only a GET can tell: HEAD leads to a place that is for GET alone, or was
// refused. What refuses a HEAD may answer a GET (registries and what is in front of
// them answer 401, 405 and 500 to one), and a refusal without its text says little: a
// 404 that says NAME_UNKNOWN denies the repository, and any other does not.
func (s *source) head(ctx context.Context, repo, reference string) (header, error) {
	c := &call{op: opHead, method: http.MethodHead, repo: repo, path: "manifests/" + reference, accept: acceptManifest}
	a, err := s.do(ctx, c)
	if err != nil {
		if s.brokeOff(err) && ctx.Err() == nil {
			return header{}, nil
		}
		return header{}, err
	}
	switch {
	case a.StatusCode == http.StatusOK:
		h := readHeader(a)
		if own, ok := s.types.Get(h.digest); ok {
			h.mediaType = own
		}
		return h, a.Body.Close()
	case needsGet(a), a.StatusCode < 400:
		var h header
		if e := s.meaning(a, c, nil); a.target == nil && (e.Class.Refuses() || e.Class == oci.NotFound) {
			h.no = a.body.who.about(oci.AsError(s.named(e, c.repo)))
		}
		return h, a.Body.Close()
	}
	return header{}, s.refused(ctx, a, c)
}

// needsGet says whether an answer to a HEAD that is no success is not understood
// without that to a GET. A limit is one for both, and who asks for a pause gets it.
func needsGet(a *answer) bool {
	return a.StatusCode >= 400 && a.StatusCode != http.StatusTooManyRequests && a.Header.Get("Retry-After") == ""
}

// brokeOff says whether err is a connection that ended without an answer, where there
// was one.
func (s *source) brokeOff(err error) bool {
	_, trouble := s.origin.trouble()
	return isReset(err) && !isConnecting(err) && !trouble
}

func readHeader(a *answer) header {
	h := header{mediaType: typeOf(a.Header), size: a.ContentLength, asked: a.asked}
	name := a.Header.Get("Docker-Content-Digest")
	h.named = name != ""
	h.digest, _ = oci.ParseDigest(name) // a bad one is as good as none
	if encoding(a.Header) != "" || h.size > maxSmall {
		h.size = -1 // the GET has to tell
	}
	return h
}

// manifest gets a manifest by tag or digest, and verifies it. want is what its digest
// must be; empty for a tag. first says that no HEAD came before.
//
// A refusal of the first request is followed by a HEAD, whose answer is not
// looked at. What is in the cache is asked for by HEAD and then by GET, to read
// the refusal; what is not, by GET. Half the time would tell a stranger which of
// the two it is, and so whether somebody on this node has the image.
func (s *source) manifest(ctx context.Context, repo, reference string, want oci.Digest, first bool) (*oci.Content, error) {
	c := &call{op: opManifest, method: http.MethodGet, repo: repo, path: "manifests/" + reference, accept: acceptManifest, explains: !first}
	release, err := s.reserve(ctx, c)
	if err != nil {
		return nil, err
	}
	defer release()
	a, err := s.do(ctx, c)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		err := s.refused(ctx, a, c)
		if first && a.StatusCode < 500 && needsGet(a) {
			_, _ = s.head(ctx, repo, reference) // see above
		}
		return nil, err
	}
	d, err := s.readManifest(a, want)
	if err != nil {
		e := *oci.AsError(err)
		e.Counted = true
		return nil, &e
	}
	return &oci.Content{Descriptor: d, Outcome: outcome(a), Length: d.Size}, nil
}

// reserve waits until there is memory for what c brings, unless whoever asks has a share of
// it, which then lasts until release although he may have left. Like any other limit of
// ours it must not keep a question about a right from being put.
func (s *source) reserve(ctx context.Context, c *call) (release func(), err error) {
	if m := oci.MemoryOf(ctx); m != nil {
		if release, ok := m.Keep(); ok {
			return release, nil
		}
	}
	w := limit.Want{
		Organisation: s.payer(), At: s.name, N: oci.MaxManifest, First: c.explains, Past: func() bool { return oci.Insists(ctx) },
	}
	if right := oci.RightOf(ctx); right != nil {
		w.Before = func() error { return right(ctx) }
	}
	slot, err := s.memory.Take(ctx, w)
	if err != nil {
		return nil, s.asker(nil, c.repo).fault(ctx, err)
	}
	return slot.Release, nil
}

// readManifest reads and checks what was sent as a manifest.
func (s *source) readManifest(a *answer, want oci.Digest) (oci.Descriptor, error) {
	data, over, err := a.slurp(maxSmall, smallLimit)
	switch {
	case err != nil:
		return oci.Descriptor{}, err
	case over:
		e := a.body.who.nonsense("sent a manifest of more than %d MiB, the most that registries have to take", maxSmall>>20)
		e.Status, e.Code, e.Err = http.StatusRequestEntityTooLarge, oci.CodeManifestInvalid, nil // it will be as large the next time
		return oci.Descriptor{}, e
	}
	return s.verified(a, data, want)
}

// verified finds what of an answer has the right digest, and its type.
func (s *source) verified(a *answer, data []byte, want oci.Digest) (oci.Descriptor, error) {
	who := a.body.who
	if strings.HasPrefix(typeOf(a.Header), schema1) {
		return oci.Descriptor{}, unusable(who, oci.ErrSchema1)
	}
	if want == "" {
		want, _ = oci.ParseDigest(a.Header.Get("Docker-Content-Digest")) // then it is what the hash says
	}
	data, digest, ok := match(versions(a.Header, data), want)
	doc, err := oci.ParseManifest(data)
	switch {
	case (!ok || err != nil) && classify.IsPage(a.Header):
		return oci.Descriptor{}, who.notUnderstood("sent a web page instead of a manifest; check that its endpoint is a registry, and who is between")
	case !ok:
		e := who.corrupt("sent a manifest that has not the digest %s; try again", want)
		e.NotUnderstood = true
		return oci.Descriptor{}, e
	case err != nil && want == "" && !errors.Is(err, oci.ErrSchema1):
		e := who.notUnderstood("sent something else than a manifest: %s; check that its endpoint is a registry, and who is between", err)
		e.Err = err // the next one costs a pull
		return oci.Descriptor{}, e
	case err != nil: // what has the digest is what the registry has, if no use to anyone
		return oci.Descriptor{}, unusable(who, err)
	}
	// What it was sent as is a hint: the document says what it is.
	if doc.MediaType != typeOf(a.Header) {
		s.types.Add(s.id.Organisation, digest, doc.MediaType)
	}
	return oci.Descriptor{MediaType: doc.MediaType, Digest: digest, Size: int64(len(data)), Data: data}, nil
}

// match finds the version with the digest. Without a digest it is the first.
func match(versions [][]byte, want oci.Digest) ([]byte, oci.Digest, bool) {
	if want == "" {
		return versions[0], oci.DigestOf(versions[0]), true
	}
	for _, v := range versions {
		if want.Algorithm().FromBytes(v) == want {
			return v, want, true
		}
	}
	return nil, "", false
}

// unusable is a manifest that nobody should get. Trying again does not help,
// and 404 is what clients take as final.
func unusable(who asker, err error) *oci.Error {
	e := who.nonsense("sent a manifest that cannot be used: %s", err)
	e.Status, e.Code, e.Err = http.StatusNotFound, oci.CodeManifestUnknown, err
	return e
}
