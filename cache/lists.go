package cache

import (
	"berth/cache/proof"
	"berth/internal/share"
	"berth/oci"
)

// lists are what manifests list, as far as that is remembered. That one lists an object
// proves nothing: whoever may push to a repository may list there what he has never had.
type lists struct {
	// listed is which manifest of a repository lists an object.
	listed *share.LRU[proof.Member, listed]
	// noted is what a manifest lists first and last, which is an image's configuration.
	// While both are in listed, all between them is.
	noted *share.LRU[proof.Member, ends]
}

type listed struct {
	by   proof.Member
	size int64
	// elsewhere: it may lie at another place than the registry, which then does not look
	// whether it has it when somebody pushes the manifest.
	elsewhere bool
}

// mostNoted bounds how much one manifest lists here. No image has as much, and one that
// lists more than there is room for would push out its own first entry, and be parsed each
// time that it is asked for.
const mostNoted = 1000

type ends struct{ first, last proof.Member }

func newLists() lists {
	return lists{listed: share.New[proof.Member, listed](16384, nil), noted: share.New[proof.Member, ends](4096, nil)}
}

// note remembers what a manifest lists. One that is served again and again is read once.
func (s *source) note(o oci.Object, data []byte) {
	c, by := s.c.lists, s.memberKey(o)
	if all, ok := c.noted.Get(by); ok {
		_, first := c.listed.Get(all.first)
		if last, ok := c.listed.Get(all.last); ok && first && last.by == by { // a layer may be in many images
			return
		}
	}
	doc, err := oci.ParseManifest(data)
	if err != nil {
		return
	}
	var all ends
	left := mostNoted
	add := func(kind oci.Kind, e oci.Entry) {
		d, err := oci.ParseDigest(string(e.Digest))
		if left--; err != nil || left < 0 {
			return
		}
		all.last = s.memberKey(oci.Object{Repo: o.Repo, Kind: kind, Digest: d})
		if all.first == (proof.Member{}) {
			all.first = all.last
		}
		c.listed.Add(s.u.Organisation, all.last, listed{by, e.Size, e.Elsewhere()})
	}
	for _, m := range doc.Manifests {
		add(oci.Manifest, m)
	}
	for _, b := range doc.Blobs() {
		add(oci.Blob, b)
	}
	c.noted.Add(s.u.Organisation, by, all)
}
