package cache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

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

// touchEvery is how coarsely the disk is told what memory serves: without it,
// what is asked for most would look like what nobody wants, and be evicted.
const touchEvery = time.Hour

// touch notes on the disk that e, which is o, was used.
func (s *source) touch(o oci.Object, e hotEntry) {
	now, last := s.c.o.Now().UnixNano(), e.touched.Load()
	if time.Duration(now-last) >= touchEvery && e.touched.CompareAndSwap(last, now) {
		s.c.folder.store().Use(s.origin, o.Digest)
	}
}

// hot keeps what is small and asked for often in memory. Like the folder on
// disk it is keyed by origin: being in it says nothing about who may read.
type hot struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[hotKey, hotEntry]
	bytes int64
	limit int64
}

func newHot(limit int64) *hot {
	h := &hot{limit: limit}
	// The number of entries is no limit of its own; errors only for a size below 1.
	h.lru, _ = simplelru.NewLRU(1<<20, func(_ hotKey, e hotEntry) { h.bytes -= int64(len(e.data)) })
	return h
}

func (h *hot) get(k hotKey) (hotEntry, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lru.Get(k)
}

func (h *hot) add(k hotKey, e hotEntry) {
	if int64(len(e.data)) > h.limit {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lru.Remove(k)
	h.bytes += int64(len(e.data))
	h.lru.Add(k, e)
	for h.bytes > h.limit {
		h.lru.RemoveOldest()
	}
}
