// Package share bounds what is remembered for many owners: where there is no room,
// whoever has the most gives way.
package share

import "sync"

// LRU is a table that is bounded as a whole and shared out by use. When it is full,
// the least recently used entry of the owner who has the most in it goes, so that
// nobody pushes out what others have by asking for more and more. With one owner it is
// an ordinary LRU. It is safe for concurrent use.
type LRU[K comparable, V any] struct {
	limit int64
	weigh func(K, V) int64

	mu     sync.Mutex // guards all below
	items  map[K]*item[K, V]
	owners map[string]*part[K, V]
	weight int64
}

// item is an entry, linked to the one of the same owner that was used before it and to
// the one that was used after.
type item[K comparable, V any] struct {
	key          K
	value        V
	weight       int64
	part         *part[K, V]
	older, newer *item[K, V]
}

// part is what one owner has: a ring through its newest and its oldest entry.
type part[K comparable, V any] struct {
	owner  string
	weight int64
	ring   item[K, V]
}

// New makes a table of at most limit entries or, with weigh, of entries that weigh as
// much together. limit is at least 1.
func New[K comparable, V any](limit int64, weigh func(K, V) int64) *LRU[K, V] {
	if weigh == nil {
		weigh = func(K, V) int64 { return 1 }
	}
	return &LRU[K, V]{
		limit: max(limit, 1), weigh: weigh,
		items: map[K]*item[K, V]{}, owners: map[string]*part[K, V]{},
	}
}

// Get finds k, which is a use of it.
func (l *LRU[K, V]) Get(k K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it, ok := l.items[k]
	if !ok {
		return v, false
	}
	it.unlink()
	it.part.push(it)
	return it.value, true
}

// Add keeps v for owner, in the place of what k meant before, whoever had that, and says
// whether owner had it not. What weighs more than the limit is not kept.
func (l *LRU[K, V]) Add(owner string, k K, v V) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	news = true
	if it, ok := l.items[k]; ok {
		news = it.part.owner != owner
		l.remove(it)
	}
	it := &item[K, V]{key: k, value: v, weight: l.weigh(k, v)}
	if it.weight > l.limit {
		return news
	}
	p, ok := l.owners[owner]
	if !ok {
		p = &part[K, V]{owner: owner}
		p.ring.older, p.ring.newer = &p.ring, &p.ring
		l.owners[owner] = p
	}
	it.part = p
	p.push(it)
	l.items[k] = it
	p.weight += it.weight
	for l.weight += it.weight; l.weight > l.limit; {
		l.remove(l.largest(p).ring.newer)
	}
	return news
}

// largest is the part that weighs most; adding, if it is as heavy as any.
func (l *LRU[K, V]) largest(adding *part[K, V]) *part[K, V] {
	most := adding
	for _, p := range l.owners {
		if p.weight > most.weight || p.weight == most.weight && most != adding && p.owner < most.owner {
			most = p
		}
	}
	return most
}

// Remove forgets k.
func (l *LRU[K, V]) Remove(k K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if it, ok := l.items[k]; ok {
		l.remove(it)
	}
}

// RemoveIf forgets the entries that match.
func (l *LRU[K, V]) RemoveIf(match func(K, V) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, it := range l.items {
		if match(k, it.value) {
			l.remove(it)
		}
	}
}

// All is a copy of what is kept, in no order.
func (l *LRU[K, V]) All() map[K]V {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[K]V, len(l.items))
	for k, it := range l.items {
		all[k] = it.value
	}
	return all
}

// remove takes it out. Caller holds mu.
func (l *LRU[K, V]) remove(it *item[K, V]) {
	p := it.part
	it.unlink()
	delete(l.items, it.key)
	l.weight -= it.weight
	if p.weight -= it.weight; p.ring.older == &p.ring {
		delete(l.owners, p.owner)
	}
}

// push makes it the one that was used last.
func (p *part[K, V]) push(it *item[K, V]) {
	it.older, it.newer = p.ring.older, &p.ring
	it.older.newer, p.ring.older = it, it
}

func (it *item[K, V]) unlink() { it.older.newer, it.newer.older = it.newer, it.older }
