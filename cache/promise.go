package cache

// ownShare is which part of the cache what is on its way from one organisation's
// own registries may take: an eighth.
const ownShare = 8

// promise takes the size of what f fetches out of its organisation's share, where
// the registry is an organisation's own. Such a registry can say any size: without
// a share, a header would be enough to have everybody's images evicted for bytes
// that never come. What is beyond the share goes past the cache.
func (f *fill) promise(size int64) bool {
	owner := f.owner
	limit := f.c.store.limit()
	if owner == "" || limit <= 0 || size <= 0 {
		return true
	}
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	held := f.c.promised[owner] - f.promised
	if size > limit/ownShare-held { // and not held+size, which may be beyond all numbers
		return false
	}
	f.c.promised[owner], f.promised = held+size, size
	return true
}

// release gives back what was promised. Caller holds the cache's mutex.
func (f *fill) release() {
	if f.promised == 0 {
		return
	}
	if f.c.promised[f.owner] -= f.promised; f.c.promised[f.owner] == 0 {
		delete(f.c.promised, f.owner)
	}
	f.promised = 0
}
