package proof

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"berth/oci"
)

// record is an origin's last answer about something: a grant, dated when its request
// was sent, or a denial, dated when it arrived. The zero record: it was never asked.
type record struct {
	at     time.Time
	denied bool
	// credential: what was denied is the credential. Of the repository it says
	// nothing, but that nothing is proven any more.
	credential bool
	// doubted is when the last answer came, after the proof, that puts it in doubt: of
	// access one that was neither yes nor no, of a membership somebody's 404.
	doubted time.Time
	// persisted: the file has a denial, or will have one at once.
	persisted bool
	// restored: read back from the file, so good for grace and membership, but
	// never for fresh access.
	restored bool
}

func (w record) proven() bool { return !w.at.IsZero() && !w.denied }

// stillDoubted is what is left of w's doubt after a proof that was asked for at
// asked: only one that was asked for after the doubt came ends it.
func (w record) stillDoubted(asked, now time.Time) time.Time {
	if asked.After(w.doubted) || w.doubted.After(now) { // or the clock was set back since
		return time.Time{}
	}
	return w.doubted
}

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
	return join(a.Origin, a.Principal.Organisation, a.Principal.Fingerprint, a.Repo, a.Digest.String())
}

func (m Member) key() []byte { return join(m.Origin, m.Repo, m.Kind.String(), m.Digest.String()) }

func (k TagKey) key() []byte {
	return join(k.Origin, k.Principal.Organisation, k.Principal.Fingerprint, k.Repo, k.Tag)
}

// What a stored record begins with. Its time follows.
const (
	provenMark = 'p'
	deniedMark = 'd'
	// refusedMark is for a denial of the credential. Versions that do not know it
	// take it for no record, and ask.
	refusedMark = 'u'
	// doubtedMark is for a proof in doubt; the time of the doubt follows that of the
	// proof. Versions that do not know it ask, likewise.
	doubtedMark = 'q'
)

func (w record) encode() []byte {
	mark := byte(provenMark)
	switch {
	case w.credential:
		mark = refusedMark
	case w.denied:
		mark = deniedMark
	case !w.doubted.IsZero():
		b := binary.BigEndian.AppendUint64([]byte{doubtedMark}, uint64(w.at.UnixNano()))
		return binary.BigEndian.AppendUint64(b, uint64(w.doubted.UnixNano()))
	}
	return binary.BigEndian.AppendUint64([]byte{mark}, uint64(w.at.UnixNano()))
}

// decodeRecord reads what encode wrote. Anything else is no record.
func decodeRecord(b []byte) (record, bool) {
	if len(b) == 17 && b[0] == doubtedMark {
		return record{at: storedTime(b[1:9]), doubted: storedTime(b[9:]), restored: true}, true
	}
	if len(b) != 9 || b[0] != provenMark && !isDenial(b) {
		return record{}, false
	}
	at := storedTime(b[1:])
	denied := isDenial(b)
	return record{at: at, denied: denied, credential: b[0] == refusedMark, persisted: denied, restored: true}, true
}

func storedTime(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b))) }

// isDenial says whether a stored record is one.
func isDenial(b []byte) bool { return len(b) > 0 && (b[0] == deniedMark || b[0] == refusedMark) }

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
	switch b {
	case tagBucket:
		t, _ := decodeTag(v)
		return t.Asked
	case notesBucket:
		n, _ := decodeNote(NoteKey{}, v)
		return n.at
	}
	w, _ := decodeRecord(v)
	return w.at
}
