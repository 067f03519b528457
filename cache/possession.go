package cache

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"time"

	"berth/cache/proof"
	"berth/internal/registry"
	"berth/oci"
)

// A 2xx without the object in it (a HEAD, one byte of a blob) is a claim. The registry is
// honest, but what it says of one repository may be what another host has told it: proxy
// projects of Harbor, organisations of Quay's that cache, remote repositories of Artifactory,
// Nexus and Artifact Registry pass on the answers of a host that their owner names. Whoever
// owns such a repository and knows a digest (they are in logs and manifests of deployments)
// would have its bytes, which another repository of the registry has brought here, by
// claiming to have them. So a repository proves possession first: that an object is in it is
// known once it has shown the object itself, whoever asked. From then on a claim renews it.

// errUnshown is the error where what is kept has come by other repositories alone.
var errUnshown = errors.New("its repository has not shown it")

const (
	// shownWhole is the size up to which a blob is shown whole, and shownPiece how much of
	// a larger one's end is, if it ends with a checksum of what is in it. As much is shown of
	// a place that nobody can know.
	shownWhole = 1 << 20
	shownPiece = 64 << 10
)

// speaksForItself says whether no repository of the registry is under the control of
// somebody who may not see all of it, or passes on what others say: Docker Hub does not, and
// counts what a manifest is shown with. What an organisation's own registry brings is its own.
func (s *source) speaksForItself() bool {
	at := s.u.Spec.Origin // a company's own host may stand there for Docker Hub
	return s.u.Spec.Type == registry.DockerHub && at.Scheme == "https" && at.Host == "registry-1.docker.io" || s.u.Spec.Organisation != ""
}

// unshown says whether what is kept of o, if anything is, has come by other repositories of
// the registry alone.
func (s *source) unshown(o oci.Object) bool {
	return s.place.bytes == proof.FromOrigin && !s.speaksForItself() && !s.proofs.HadMember(s.memberKey(o))
}

// hasScoped says whether o came out of the fleet, for this principal or for everyone. Then
// the principal, or everyone, was shown it at another node.
func (s *source) hasScoped(o oci.Object) bool {
	if s.place.bytes == proof.FromOrigin {
		return false
	}
	d, err := s.describe(o)
	return d != nil && err == nil
}

// releaseUnshown gives o where content, which is kept, has come by other repositories: a
// manifest as the registry sends it, and of a blob what is kept, if pieces of it are the same.
func (s *source) releaseUnshown(ctx context.Context, principal oci.Principal, o oci.Object, r oci.Range, content *oci.Content) (*oci.Content, error) {
	if o.Kind == oci.Manifest {
		content.Close()
		return s.openAbsent(ctx, principal, o, r)
	}
	shown, err := s.shows(ctx, principal, o)
	if err != nil || !shown {
		content.Close()
		if err != nil {
			return nil, err
		}
		return s.bypass(ctx, principal, o, r)
	}
	content.Outcome = oci.Outcome{Result: oci.Revalidated}
	if content.Data != nil {
		return content, nil // memory was verified
	}
	return s.verified(ctx, principal, o, r, content)
}

// shows has the registry send, as principal, pieces of the blob o as its repository has it,
// once for all who want it at the same time, and says whether they are those of what is kept.
// What the answers prove or deny is recorded before anyone gets them.
func (s *source) shows(ctx context.Context, principal oci.Principal, o oci.Object) (bool, error) {
	mk := s.questionKey(principal, o)
	if err := s.c.knownMissing(mk); err != nil {
		return false, err
	}
	return together(ctx, s, s.c.shows, mk, func(ctx context.Context) (bool, error) {
		// As for what is not kept: his limits must not tell which of the two it is.
		same, asked, err := s.compare(oci.WithRight(ctx, s.asker(ctx, principal, o).right), principal, o)
		if err = s.notABlob(principal, o, err); err != nil {
			s.refused(principal, o, mk, err)
			return false, err
		}
		s.c.slow.Release(s.repoKey(principal, o.Repo))
		if asked.IsZero() { // the answers prove nothing
			_, err := s.admit(ctx, principal, o, false)
			return false, err
		}
		return same, s.prove(principal, o, same, asked)
	})
}

// compare says whether the registry sends the same pieces of o as are kept, and when it was
// asked for the first.
func (s *source) compare(ctx context.Context, principal oci.Principal, o oci.Object) (same bool, asked time.Time, err error) {
	kept, err := s.cached(o)
	if kept == nil || err != nil {
		return false, asked, err
	}
	defer kept.Close()
	pieces, ok := s.pieces(o, kept)
	if !ok {
		return false, asked, nil
	}
	for _, piece := range pieces {
		got, err := s.as(principal).Open(ctx, o, piece)
		if err != nil {
			return false, asked, err
		}
		if asked.IsZero() {
			asked = got.Asked
		}
		if !isPiece(got, piece, kept) {
			return false, asked, nil
		}
	}
	return true, asked, nil
}

// pieces are the parts of o that are to be shown; ok is false where nothing less than all of
// it would do. To ask again and again, until it is a part that one knows, is in vain.
func (s *source) pieces(o oci.Object, kept *oci.Content) (_ []oci.Range, ok bool) {
	if kept.Size <= shownWhole {
		return []oci.Range{{Length: kept.Size}}, true
	}
	begin := make([]byte, 5)
	if _, err := bytesOf(kept).ReadAt(begin, 0); err != nil || !endsWithChecksum(begin) {
		return nil, false
	}
	end := kept.Size - shownPiece
	at := int64(maphash.String(s.c.unguessed, o.Repo+"@"+o.Digest.String()) % uint64(end))
	return []oci.Range{{Start: end, Length: shownPiece}, {Start: at, Length: shownPiece}}, true
}

// endsWithChecksum says whether what begins so has a checksum of its content at its end, which
// nobody knows who does not know all of it: gzip has (RFC 1952, 2.3.1), and zstd where a bit of
// its header says so (RFC 8878, 3.1.1.1.1). Layers in pieces of either (eStargz, zstd:chunked)
// end with a table of the digests of all that is in them.
func endsWithChecksum(begin []byte) bool {
	return bytes.HasPrefix(begin, []byte{0x1f, 0x8b}) || bytes.HasPrefix(begin, []byte{0x28, 0xb5, 0x2f, 0xfd}) && begin[4]&4 != 0
}

func bytesOf(kept *oci.Content) io.ReaderAt {
	if b, ok := kept.Body.(*fileBody); ok {
		return b.file
	}
	return bytes.NewReader(kept.Data)
}

// isPiece says whether got is the piece r of what is kept. It closes got. Where it is not,
// whatever the reason (all of the blob was sent, or the connection broke, or the disk does
// not read), the blob goes past the disk, which says what is wrong if anything is.
func isPiece(got *oci.Content, r oci.Range, kept *oci.Content) bool {
	defer got.Close()
	if got.Offset != r.Start || got.Length != r.Length || got.Size != kept.Size {
		return false
	}
	theirs, ours := make([]byte, r.Length), make([]byte, r.Length)
	if _, err := io.ReadFull(got.Body, theirs); err != nil {
		return false
	}
	_, err := bytesOf(kept).ReadAt(ours, r.Start)
	return (err == nil || errors.Is(err, io.EOF)) && bytes.Equal(ours, theirs)
}
