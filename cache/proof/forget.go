package proof

import (
	"encoding/binary"
	"errors"
	"time"

	"go.etcd.io/bbolt"
)

// Forget drops what was proven to an organisation: access and tags, of all its
// credentials. Denials stay, and so does membership, which is about nobody. A
// request that is under way proves nothing when it ends.
//
// When it returns, nothing of it is in the file. Should the disk fail, that is
// the error: it is forgotten all the same, but only until the next restart.
func (f *Proofs) Forget(organisation string) error {
	at := f.forgetInMemory(organisation)
	if f.disk == nil {
		return nil
	}
	return f.disk.forget(organisation, at)
}

func (f *Proofs) forgetInMemory(organisation string) (at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at = f.o.Now()
	f.forgotten[organisation] = at
	f.access.recent.RemoveIf(func(a Access, w record) bool { return w.proven() && a.Principal.Organisation == organisation })
	f.tags.recent.RemoveIf(func(k TagKey, _ Tag) bool { return k.Principal.Organisation == organisation })
	return at
}

// isAfterForget says whether what was learned at proven, for organisation, is from
// after the last Forget. Caller holds mu.
func (m *memory) isAfterForget(organisation string, proven time.Time) bool {
	at, ok := m.forgotten[organisation]
	return !ok || proven.After(at)
}

// mayRestore says whether what the file says was learned after the last Forget. A
// time from the future (the clock was set back) says nothing about the order.
func (f *Proofs) mayRestore(organisation string, proven time.Time) bool {
	_, ok := f.forgotten[organisation]
	return !ok || f.isAfterForget(organisation, proven) && !proven.After(f.o.Now())
}

// forget deletes what an organisation had proven until at, in the file and on
// its way there.
func (d *disk) forget(organisation string, at time.Time) error {
	gone := func(_ *bbolt.Tx, b bucket, k, v []byte) bool {
		if b == memberBucket || b == notesBucket || b == accessBucket && isDenial(v) || organisationOf(k) != organisation {
			return false
		}
		used := lastUse(b, v)
		return !used.After(at) || used.After(d.clock())
	}
	d.unqueue(gone)
	return errors.Join(d.deleteWhere(nil, accessBucket, gone), d.deleteWhere(nil, tagBucket, gone))
}

// unqueue takes out of what waits to be written, once nothing is being written.
func (d *disk) unqueue(gone func(tx *bbolt.Tx, b bucket, k, v []byte) bool) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, v := range d.pending {
		if v != nil && gone(nil, k.bucket, []byte(k.key), v) {
			delete(d.pending, k)
		}
	}
}

// organisationOf is the second part of a key of a principal's: see Access.key and
// TagKey.key.
func organisationOf(key []byte) string {
	_, rest := cutPart(key)
	organisation, _ := cutPart(rest)
	return string(organisation)
}

// cutPart cuts the first part off what join made. What is no such key has no parts.
func cutPart(key []byte) (part, rest []byte) {
	n, size := binary.Uvarint(key)
	if size <= 0 || n > uint64(len(key)-size) {
		return nil, nil
	}
	return key[size : size+int(n)], key[size+int(n):]
}
