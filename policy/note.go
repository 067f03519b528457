package policy

import (
	"encoding/json"
	"slices"
	"time"

	"berth/cache/proof"
	"berth/oci"
)

// note is what is known about an object of a repository, as the organisation has
// pulled it.
type note struct {
	// Tags are what meant this manifest when the organisation pulled them.
	Tags []string `json:"tags,omitempty"`
	// In are the manifests that list it, which the organisation was let have.
	In []oci.Digest `json:"in,omitempty"`
	// Size is that of its own blobs; nil: it was not read yet.
	Size *int64 `json:"size,omitempty"`
	// Listed is when it was noted what the manifest lists; nil: it was not.
	Listed *time.Time `json:"listed,omitempty"`
}

// listAgain is after how long what a manifest lists is noted again, so that it counts as used.
const listAgain = 24 * time.Hour

// maxNoted bounds each list of a note. What was noted last stays.
const maxNoted = 32

func decodeNote(text string) (n note) {
	if text == "" || json.Unmarshal([]byte(text), &n) != nil {
		return note{}
	}
	return n
}

func (n *note) encode() string {
	text, err := json.Marshal(n)
	if err != nil {
		return "" // cannot happen: strings and numbers
	}
	return string(text)
}

// with adds s at the end of a bounded list.
func with[T comparable](all []T, s T) []T {
	if slices.Contains(all, s) {
		return all
	}
	if all = append(all, s); len(all) > maxNoted {
		all = all[len(all)-maxNoted:]
	}
	return all
}

func (s *source) noteKey(repo string, kind oci.Kind, d oci.Digest) proof.NoteKey {
	return proof.NoteKey{Origin: s.at.Origin, Organisation: s.at.Organisation, Repo: repo, Kind: kind, Digest: d}
}

func (s *source) note(repo string, kind oci.Kind, d oci.Digest) note {
	return decodeNote(s.notes.Note(s.noteKey(repo, kind, d)))
}

func (s *source) change(repo string, kind oci.Kind, d oci.Digest, how func(*note)) (changed note) {
	s.notes.Noted(s.noteKey(repo, kind, d), false, func(old string) string {
		changed = decodeNote(old)
		how(&changed)
		return changed.encode()
	})
	return changed
}

// tagged notes that tag means d, and is what is known of that.
func (s *source) tagged(repo, tag string, d oci.Digest) note {
	return s.change(repo, oci.Manifest, d, func(n *note) { n.Tags = with(n.Tags, tag) })
}

// sizeOf is the size of an image as its manifest says it. A size below 0, or a sum
// that overflows, is more than anything allows.
func sizeOf(doc *oci.Document) (sum int64) {
	for _, e := range append(doc.Blobs(), doc.Manifests...) {
		if sum+e.Size < sum {
			return 1<<63 - 1
		}
		sum += e.Size
	}
	return sum
}

// sized notes how large the image of manifest d is.
func (s *source) sized(repo string, d oci.Digest, size int64) {
	s.change(repo, oci.Manifest, d, func(n *note) { n.Size = &size })
}

// settled says whether the manifest that n is about was read, and what it lists was
// noted, so that nobody need read it again.
func (s *source) settled(repo string, n *note) bool {
	lost := s.note(repo, oci.Blob, nothing)
	return n.Size != nil && n.Listed != nil && s.now().Sub(*n.Listed).Abs() < listAgain && (lost.Listed == nil || n.Listed.After(*lost.Listed))
}

// nothing is the digest under which a repository's own note is.
const nothing = ""

// missed notes that a blob of repo was refused since nothing is known to list it. Notes
// are kept as long as there is room, so that this one may have been lost: manifests are
// read again, once for a minute of this.
func (s *source) missed(repo string) {
	now := s.now()
	s.change(repo, oci.Blob, nothing, func(n *note) {
		if n.Listed == nil || now.Sub(*n.Listed).Abs() > time.Minute {
			n.Listed = &now
		}
	})
}

// listed notes what manifest d, which may be pulled, lists. What an index lists need
// not be a manifest: BuildKit's caches have layers there.
func (s *source) listed(repo string, d oci.Digest, doc *oci.Document) {
	in := func(kind oci.Kind, e oci.Entry) {
		if child, err := oci.ParseDigest(string(e.Digest)); err == nil {
			s.change(repo, kind, child, func(n *note) { n.In = with(n.In, d) })
		}
	}
	for _, e := range doc.Blobs() {
		in(oci.Blob, e)
	}
	for _, e := range doc.Manifests {
		kind := oci.Blob
		if e.MediaType == "" || oci.IsManifestType(e.MediaType) {
			kind = oci.Manifest
		}
		in(kind, e)
	}
	now := s.now()
	s.change(repo, oci.Manifest, d, func(n *note) { n.Listed = &now })
}
