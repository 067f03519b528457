package proof

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"berth/oci"
)

// notesBucket is what a policy has to know of tags and manifests. It is made with its
// first record, so that a file without rules is as it always was.
const notesBucket bucket = "notes"

// NoteKey is the key of what a policy has noted for one organisation about a tag, or
// about an object, of a repository.
type NoteKey struct {
	Origin       string // oci.Origin.Dir
	Organisation string
	Repo         string
	Tag          string     // of a tag, else empty
	Kind         oci.Kind   // of an object
	Digest       oci.Digest // of an object
}

// about is what is noted about: "tag:latest", "blob:sha256:...". No kind is called tag.
func (k NoteKey) about() string {
	if k.Tag != "" {
		return "tag:" + k.Tag
	}
	return k.Kind.String() + ":" + k.Digest.String()
}

func (k NoteKey) key() []byte { return join(k.Origin, k.Organisation, k.Repo, k.about()) }

// note is text that the policy reads, and when it was last written.
type note struct {
	at   time.Time
	text string
}

func (n note) encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(n.at.UnixNano())), n.text...)
}

func decodeNote(_ NoteKey, b []byte) (note, bool) {
	if len(b) < 8 {
		return note{}, false
	}
	return note{storedTime(b[:8]), string(b[8:])}, true
}

// renewNote is how old a note is written again without a change, so that it is not
// dropped as unused.
const renewNote = 24 * time.Hour

// Note is what was noted about k; empty: nothing.
func (f *Proofs) Note(k NoteKey) string {
	n, _ := f.notes.read(k.Organisation, k)
	return n.text
}

// Noted makes a new note about k of the one that there is, and gives it back. Must:
// it is in the file within a second or two, whatever else is to be written.
func (f *Proofs) Noted(k NoteKey, must bool, change func(old string) string) string {
	now := f.o.Now()
	same := func(old note, text string) bool {
		return text == old.text && (text == "" || now.Sub(old.at).Abs() < renewNote)
	}
	// A manifest that is pulled again changes none of the notes about what it lists, which
	// may be thousands: those do not take turns with everybody's proofs.
	if old, ok := f.notes.recent.Get(k); ok && same(old, change(old.text)) {
		return old.text
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old, _ := f.notes.get(k.Organisation, k)
	text := change(old.text)
	switch {
	case same(old, text):
	case must:
		f.notes.mustSet(k.Organisation, k, note{now, text})
	default:
		f.notes.set(k.Organisation, k, note{now, text})
	}
	return text
}

// NotedTags tells every note about a tag.
func (f *Proofs) NotedTags(ctx context.Context, tell func(k NoteKey, text string)) error {
	see := func(k NoteKey, n note) {
		if k.Tag != "" {
			tell(k, n.text)
		}
	}
	if f.disk == nil || f.disk.broken.Load() {
		for k, n := range f.notes.recent.All() {
			see(k, n)
		}
		return ctx.Err()
	}
	_ = f.disk.flush() // it is logged, and what is in the file is still worth telling
	err := f.disk.each(ctx.Done(), notesBucket, func(_ *bbolt.Tx, key, value []byte) {
		p := parts(key, 4)
		if p == nil {
			return
		}
		tag, is := cutTag(p[3])
		if n, ok := decodeNote(NoteKey{}, value); ok && is {
			see(NoteKey{Origin: p[0], Organisation: p[1], Repo: p[2], Tag: tag}, n)
		}
	})
	return errors.Join(err, ctx.Err())
}

func cutTag(about string) (tag string, ok bool) {
	const mark = "tag:"
	if len(about) <= len(mark) || about[:len(mark)] != mark {
		return "", false
	}
	return about[len(mark):], true
}
