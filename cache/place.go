package cache

import (
	"berth/cache/download"
	"berth/cache/proof"
	"berth/oci"
)

// place is where bytes of a registry lie: what the registry has delivered itself, or
// what came out of one scope of the fleet. A blob's path is its proof of provenance, so
// each place is a folder of its own, and what lies in one never counts for another.
type place struct {
	folder string
	scope  string // of the fleet; empty: the registry itself
	bytes  proof.Bytes
}

func (s *source) hotKey(d oci.Digest) hotKey { return hotKey{s.place.folder, d} }

func (s *source) blobKey(o oci.Object) download.Key {
	key := download.Key{Origin: s.origin, Scope: s.place.scope, Digest: o.Digest}
	if !s.speaksForItself() {
		key.Repo = o.Repo
	}
	return key
}
