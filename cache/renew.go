package cache

import (
	"time"

	"berth/oci"
)

// renewListedEvery is how often a manifest renews what it lists, at most. A
// membership lives a day, so an hour is soon enough, and a tag that is asked
// about every minute does not have its manifests read each time.
const renewListedEvery = time.Hour

// maxRenewed bounds how much one manifest renews, with those that it lists. No image has
// as much, and whoever pushes a manifest of 4 MiB with fifty thousand digests makes
// nobody's proofs wait: what is left is asked about by itself.
const maxRenewed = 1000

// renewListed extends the membership of what the manifest o lists, which the
// registry has just shown to be there (the request was sent at asked): a
// registry keeps what a manifest of its needs. So a pull that a HEAD has let in
// does not probe blob after blob once a day. What has never been proven by
// itself stays so: anyone may write any digest into a manifest of his own. left is how
// many may still be renewed.
func (s *source) renewListed(left *int, o oci.Object, asked time.Time) {
	if o.Kind != oci.Manifest {
		return
	}
	key := s.memberKey(o)
	if _, _, held := s.c.renewed.Held(key); held {
		return
	}
	s.c.renewed.For(s.u.Organisation, key, renewListedEvery, nil)
	l := s.listing(o)
	if l == nil {
		return // it is asked about before it is there
	}
	renew := func(kind oci.Kind, d oci.Digest) bool {
		*left--
		return *left >= 0 && s.proofs.Renew(s.memberKey(oci.Object{Repo: o.Repo, Kind: kind, Digest: d}), asked)
	}
	for _, m := range l.Manifests {
		if renew(oci.Manifest, m.Digest) {
			s.renewListed(left, oci.Object{Repo: o.Repo, Kind: oci.Manifest, Digest: m.Digest}, asked)
		}
	}
	for _, blob := range l.Blobs() {
		renew(oci.Blob, blob.Digest)
	}
}

// listing is the manifest o, whether the registry or another node has brought it here; nil:
// it is not here.
func (s *source) listing(o oci.Object) *oci.Document {
	for _, there := range s.places(o.Repo) {
		c, err := there.cached(o)
		if err != nil || c == nil {
			continue
		}
		if l, err := oci.ParseManifest(c.Descriptor.Data); err == nil {
			return l
		}
	}
	return nil
}
