package facts

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"berth/oci"
)

// word is the last word of an origin about something: yes, to a request that
// was sent at at, or no, which arrived at at. The zero word: it was never asked.
type word struct {
	at     time.Time
	denied bool
	// restored: read back from the file, so good for grace and membership, but
	// never for fresh access.
	restored bool
}

func (w word) proven() bool { return !w.at.IsZero() && !w.denied }

// join makes a key. Each part carries its length, so that no two lists of parts
// make the same key, whatever is in them.
func join(parts ...string) []byte {
	n := 0
	for _, p := range parts {
		n += len(p) + 2
	}
	key := make([]byte, 0, n)
	for _, p := range parts {
		key = binary.AppendUvarint(key, uint64(len(p)))
		key = append(key, p...)
	}
	return key
}

func (a Access) key() []byte {
	return join(a.Origin, a.View.Organisation, a.View.Fingerprint, a.Repo, a.Digest.String())
}

func (m Member) key() []byte { return join(m.Origin, m.Repo, m.Kind.String(), m.Digest.String()) }

func (k TagKey) key() []byte {
	return join(k.Origin, k.View.Organisation, k.View.Fingerprint, k.Repo, k.Tag)
}

// What a stored word begins with. Its time follows.
const (
	provenMark = 'p'
	deniedMark = 'd'
)

func (w word) encode() []byte {
	mark := byte(provenMark)
	if w.denied {
		mark = deniedMark
	}
	return binary.BigEndian.AppendUint64([]byte{mark}, uint64(w.at.UnixNano()))
}

// decodeWord reads what encode wrote. Anything else is no word.
func decodeWord(b []byte) (word, bool) {
	if len(b) != 9 || b[0] != provenMark && b[0] != deniedMark {
		return word{}, false
	}
	at := time.Unix(0, int64(binary.BigEndian.Uint64(b[1:])))
	return word{at: at, denied: b[0] == deniedMark, restored: true}, true
}

type storedTag struct {
	MediaType string     `json:"mediaType"`
	Digest    oci.Digest `json:"digest"`
	Size      int64      `json:"size"`
	Asked     int64      `json:"asked"` // nanoseconds since 1970
}

func (t Tag) encode() []byte {
	b, err := json.Marshal(storedTag{t.MediaType, t.Digest, t.Size, t.Asked.UnixNano()})
	if err != nil {
		return nil // cannot happen: strings and numbers; nil means "delete"
	}
	return b
}

// decodeTag reads what encode wrote. Anything else is no tag.
func decodeTag(b []byte) (Tag, bool) {
	var s storedTag
	if len(b) == 0 || json.Unmarshal(b, &s) != nil {
		return Tag{}, false
	}
	d, err := oci.ParseDigest(s.Digest.String())
	if err != nil {
		return Tag{}, false
	}
	return Tag{MediaType: s.MediaType, Digest: d, Size: s.Size, Asked: time.Unix(0, s.Asked), restored: true}, true
}

// lastUse is when a stored record was last renewed; the zero time for one that
// cannot be read.
func lastUse(b bucket, v []byte) time.Time {
	if b == tagBucket {
		t, _ := decodeTag(v)
		return t.Asked
	}
	w, _ := decodeWord(v)
	return w.at
}
