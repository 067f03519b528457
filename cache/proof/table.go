package proof

import (
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
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
	recent *lru.Cache[K, V]
	disk   *disk       // nil: memory only
	mu     *sync.Mutex // that of all tables
	// restore makes of what the file has what counts for this process.
	restore func(k K, value []byte) (V, bool)
}

func newTable[K about, V stored](b bucket, f *Proofs, restore func(K, []byte) (V, bool)) table[K, V] {
	recent, _ := lru.New[K, V](f.o.Entries) // errors only for a size below 1
	return table[K, V]{bucket: b, recent: recent, disk: f.disk, mu: &f.mu, restore: restore}
}

// read looks in memory, and takes the lock only to look in the file.
func (t *table[K, V]) read(k K) (v V, ok bool) {
	if v, ok = t.recent.Get(k); ok || t.disk == nil {
		return v, ok
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(k)
}

// get looks in memory, and then in the file. Caller holds mu.
func (t *table[K, V]) get(k K) (v V, ok bool) {
	if v, ok = t.recent.Get(k); ok || t.disk == nil {
		return v, ok
	}
	if v, ok = t.restore(k, t.disk.get(t.bucket, k.key())); ok {
		t.recent.Add(k, v)
	}
	return v, ok
}

// set keeps v in memory, and in the file soon, if that has room. Caller holds mu.
func (t *table[K, V]) set(k K, v V) {
	t.recent.Add(k, v)
	if t.disk != nil {
		t.disk.enqueue(t.bucket, k.key(), v.encode())
	}
}

// mustSet keeps v in memory, and queues it for the file in any case. Caller holds mu.
func (t *table[K, V]) mustSet(k K, v V) {
	t.recent.Add(k, v)
	if t.disk != nil {
		t.disk.enqueueMust(t.bucket, k.key(), v.encode())
	}
}
