package download

// ownerShare is which part of the cache the downloads from one organisation's own
// registries may take together: an eighth.
const ownerShare = 8

// reserveShare takes size bytes out of the share of the organisation that brought
// the registry. Such a registry can say any size: without a share, one header
// would be enough to have everybody's images evicted for bytes that never come.
func (d *Download) reserveShare(size int64) bool {
	room := int64(0)
	if d.owner != "" && size > 0 {
		room = d.table.o.Store().Room()
	}
	d.table.mu.Lock()
	defer d.table.mu.Unlock()
	return d.table.promise(d, size, room)
}

// giveBackShare ends what d has of its owner's share: its bytes are all there.
func (d *Download) giveBackShare() { d.reserveShare(0) }

// promise makes size what d has of its owner's share of room; 0 gives it back. It says
// false where that is beyond the share. Caller holds mu.
func (t *Table) promise(d *Download, size, room int64) bool {
	if d.owner == "" {
		return true
	}
	others := t.shares[d.owner] - d.promised
	if size > 0 && size > room/ownerShare-others { // not others+size, which may be beyond all numbers
		return false
	}
	d.promised = max(size, 0)
	if t.shares[d.owner] = others + d.promised; t.shares[d.owner] == 0 {
		delete(t.shares, d.owner)
	}
	return true
}
