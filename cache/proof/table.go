package proof

import (
	"sync"

	"berth/internal/share"
)

// about is what a proof is about.
type about interface {
	comparable
	key() []byte
}

// stored is what is known about it.
type stored interface{ encode() []byte }

// table is the proofs of one kind: the recent ones in memory, and behind them all
// in a bucket of the file.
type table[K about, V stored] struct {
	bucket bucket
	recent *share.LRU[K, V]
	disk   *disk       // nil: memory only
	mu     *sync.Mutex // that of all tables
	// restore makes of what the file has what counts for this process.
	restore func(k K, value []byte) (V, bool)
}

func newTable[K about, V stored](b bucket, f *Proofs, restore func(K, []byte) (V, bool)) table[K, V] {
	return table[K, V]{bucket: b, recent: share.New[K, V](int64(f.o.Entries), nil), disk: f.disk, mu: &f.mu, restore: restore}
}

// read looks in memory, and takes the lock only to look in the file. by is the
// organisation on whose account memory keeps what was found there.
func (t *table[K, V]) read(by string, k K) (v V, ok bool) {
	if v, ok = t.recent.Get(k); ok || t.disk == nil {
		return v, ok
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(by, k)
}

// get looks in memory, and then in the file. Caller holds mu.
func (t *table[K, V]) get(by string, k K) (v V, ok bool) {
	if v, ok = t.recent.Get(k); ok || t.disk == nil {
		return v, ok
	}
	if v, ok = t.restore(k, t.disk.get(t.bucket, k.key())); ok {
		t.recent.Add(by, k, v)
	}
	return v, ok
}

// set keeps v in memory, and in the file soon, if that has room. Caller holds mu.
func (t *table[K, V]) set(by string, k K, v V) {
	news := t.recent.Add(by, k, v)
	if t.disk == nil {
		return
	}
	t.disk.enqueue(by, t.bucket, k.key(), v.encode())
	if news {
		t.disk.attribute(t.bucket, k.key(), by)
	}
}

// mustSet keeps v in memory, and queues it for the file in any case. Caller holds mu.
func (t *table[K, V]) mustSet(by string, k K, v V) {
	t.recent.Add(by, k, v)
	if t.disk != nil {
		t.disk.enqueueMust(t.bucket, k.key(), v.encode())
	}
}
