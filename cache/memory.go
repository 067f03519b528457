package cache

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"berth/internal/share"
	"berth/oci"
)

// hotBlob is the largest blob that is kept in memory (image configurations are
// smaller); manifests always are.
const hotBlob = 256 << 10

type hotKey struct {
	origin string
	digest oci.Digest
}

// hotEntry is verified content. Its bytes are never changed.
type hotEntry struct {
	// mediaType of a manifest; empty for a blob that was never asked for as a
	// manifest.
	mediaType string
	data      []byte
	// touched is when the disk was told last that this is used, in Unix nanoseconds.
	touched *atomic.Int64
}

// parsed is what is known of a kept manifest that was verified and parsed since the start.
// It outlives the bytes in memory: whoever may push a manifest of 4 MiB can have it asked
// for as often as he likes, and parsing one takes as long as hashing twenty.
type parsed struct {
	mediaType string
	size      int64
	err       error // it is none
}

// mostParsed bounds what is known so: some 300 bytes each.
const mostParsed = 8192

// touchEvery is how coarsely the disk is told what memory serves: without it,
// what is asked for most would look like what nobody wants, and be evicted.
const touchEvery = time.Hour

// newHot makes what keeps in memory what is small and asked for often. Like the folder
// on disk it is keyed by origin: being in it says nothing about who may read.
func newHot(limit int64) *share.LRU[hotKey, hotEntry] {
	// What a key and an entry take themselves: tiny blobs must not be many more.
	const overhead = 512
	return share.New(limit, func(_ hotKey, e hotEntry) int64 { return int64(len(e.data)) + overhead })
}

// needMemory waits for memory for what s has none in, if it is a manifest, and does not lie
// there for another place of the fleet: what is in memory costs nothing,
// and a node whose memory is taken up still answers with that. Whoever has no right to o is
// told so before there is a wait, which would say that it is not in memory.
func (s *source) needMemory(ctx context.Context, principal oci.Principal, o oci.Object) error {
	if o.Kind != oci.Manifest || s.c.fleet != nil && s.isHot(o) {
		return nil // before the context is looked at, which a blob's request has not made yet
	}
	memory := oci.MemoryOf(ctx)
	if memory == nil {
		return nil
	}
	return memory.Need(ctx, func() error {
		if s.isListed(principal, o) {
			return nil
		}
		_, err := s.admit(ctx, principal, o, false)
		return err
	})
}

// isHot says whether the manifest o is in memory, wherever it came from.
func (s *source) isHot(o oci.Object) bool {
	return slices.ContainsFunc(s.places(o.Repo), func(there *source) bool {
		_, ok := there.hotManifest(o.Digest)
		return ok
	})
}

// hotManifest is the manifest d in memory. What was asked for as a blob only has no type,
// and counts for none.
func (s *source) hotManifest(d oci.Digest) (e hotEntry, ok bool) {
	e, ok = s.c.hot.Get(s.hotKey(d))
	return e, ok && e.mediaType != ""
}
