// Package facts remembers what origins have proven to us, and decides by it
// whether cached bytes may be released (Decide).
//
// Three kinds of fact are kept: that a view may read a repository (access),
// that a digest belongs to a repository (membership), and what a tag meant to
// a view. Memory answers; behind it a file keeps positive facts, written once
// a second, for grace and for membership after a restart. Denials are on disk
// before Deny returns.
//
// The package asks nobody: asking upstream, and serving, are the cache's work.
// Provenance is not here either: the path of a blob is its proof of origin.
package facts

import (
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/oci"
)

// Access is the key of "this view may read this repository".
type Access struct {
	Origin string // oci.Origin.Dir
	View   oci.View
	Repo   string
	// Digest is set only at registries whose rights differ within a repository.
	Digest oci.Digest
}

// Member is the key of "this object is in this repository". It is the same for
// every view.
type Member struct {
	Origin string
	Repo   string
	Kind   oci.Kind
	Digest oci.Digest
}

// TagKey is the key of what a tag means to a view.
type TagKey struct {
	Origin string
	View   oci.View
	Repo   string
	Tag    string
}

// Tag is what a tag meant.
type Tag struct {
	MediaType string
	Digest    oci.Digest
	Size      int64
	// Asked is when the request that said so was sent.
	Asked time.Time
	// restored: from the file, so not fresh, whatever the clock says.
	restored bool
}

// DefaultAccessTTL is how long a proof of access stays fresh.
const DefaultAccessTTL = 5 * time.Minute

// Options of Open. The zero value works.
type Options struct {
	// AccessTTL is how long access stays Fresh. If 0, 5 minutes.
	AccessTTL time.Duration
	// MemberTTL is how long membership stays Fresh. If 0, 24 hours.
	MemberTTL time.Duration
	// TagTTL is how long a tag stays Fresh. If 0, 60 seconds; negative: never fresh.
	TagTTL time.Duration
	// Grace is how long a proof stands in while upstream cannot be asked. If
	// 0, 24 hours; negative: not at all.
	Grace time.Duration
	// Entries bounds how many facts of each kind are kept in memory. If 0, 200000.
	Entries int
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log gets trouble with the file. If nil, nothing is logged.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	setDefault(&o.AccessTTL, DefaultAccessTTL)
	setDefault(&o.MemberTTL, 24*time.Hour)
	setDefault(&o.TagTTL, time.Minute)
	setDefault(&o.Grace, 24*time.Hour)
	setDefault(&o.Entries, 200_000)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// proof is one remembered fact. Times are zero when there was none.
type proof struct {
	proven   time.Time // when the proving request was sent
	denied   time.Time // when a denial arrived
	restored bool      // from the file: good for grace and membership, never fresh access
}

func (p proof) holds() bool { return !p.proven.IsZero() && p.proven.After(p.denied) }

// Facts is safe for concurrent use. Close it to write what is pending.
type Facts struct {
	o    Options
	disk *disk // nil: memory only

	mu      sync.Mutex // orders read-modify-write of one fact; reads go around it
	access  *lru.Cache[Access, proof]
	members *lru.Cache[Member, proof]
	tags    *lru.Cache[TagKey, Tag]
}

// Open reads the file at path, or makes it. An empty path keeps facts in
// memory only. A file that is damaged or of another version is moved aside: it
// costs HEADs, nothing else. The error is about the path itself.
func Open(path string, o Options) (*Facts, error) {
	f := &Facts{o: o.withDefaults()}
	f.access, _ = lru.New[Access, proof](f.o.Entries) // errors only for a size below 1
	f.members, _ = lru.New[Member, proof](f.o.Entries)
	f.tags, _ = lru.New[TagKey, Tag](f.o.Entries)
	if path == "" {
		return f, nil
	}
	d, err := openDisk(path, f.o)
	if err != nil {
		return nil, err
	}
	f.disk = d
	return f, nil
}

// Close writes pending facts and closes the file.
func (f *Facts) Close() error {
	if f.disk == nil {
		return nil
	}
	return f.disk.close()
}

// Access says what a's proof is worth, and when its request was sent.
func (f *Facts) Access(a Access) (Age, time.Time) {
	p := f.accessProof(a)
	if !p.holds() {
		return None, time.Time{}
	}
	return f.age(p.proven, f.o.AccessTTL, p.restored), p.proven
}

// Denied says whether the last word about a was a denial.
func (f *Facts) Denied(a Access) bool {
	p := f.accessProof(a)
	return !p.denied.IsZero() && !p.holds()
}

// Member says what m's proof is worth.
func (f *Facts) Member(m Member) Age {
	p := f.memberProof(m)
	if !p.holds() {
		return None
	}
	// A restored membership may be fresh: it says nothing about anyone's rights.
	return f.age(p.proven, f.o.MemberTTL, false)
}

// Tag gives what k meant and what that is worth. The caller checks access.
func (f *Facts) Tag(k TagKey) (Tag, Age) {
	t, ok := f.tags.Get(k)
	if !ok && f.disk != nil {
		if t, ok = f.disk.tag(k); ok {
			f.tags.ContainsOrAdd(k, t)
		}
	}
	if !ok {
		return Tag{}, None
	}
	return t, f.age(t.Asked, f.o.TagTTL, t.restored)
}

// age turns the time of a proof into its worth. A proof from the future (the
// clock was set back) is never fresh, and outside grace worth nothing.
func (f *Facts) age(proven time.Time, ttl time.Duration, restored bool) Age {
	old := f.o.Now().Sub(proven)
	switch {
	case !restored && old >= 0 && old < ttl:
		return Fresh
	case old < f.o.Grace && old > -f.o.Grace:
		return Grace
	}
	return None
}

// Prove records that the origin answered 2xx to a request for the object of m,
// made as the view of a and sent at asked. A denial that arrived after asked
// wins: the proof is then not recorded.
func (f *Facts) Prove(a Access, m Member, asked time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.accessProof(a); asked.After(p.denied) && (p.restored || asked.After(p.proven)) {
		p = proof{proven: asked}
		f.access.Add(a, p)
		f.later(accessBucket, a.key(), p.encode())
	}
	if p := f.memberProof(m); asked.After(p.proven) {
		p = proof{proven: asked}
		f.members.Add(m, p)
		f.later(memberBucket, m.key(), p.encode())
	}
}

// SetTag records what k means. An older answer never replaces a newer one.
func (f *Facts) SetTag(k TagKey, t Tag) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, age := f.Tag(k); age != None && old.Asked.After(t.Asked) {
		return
	}
	t.restored = false
	f.tags.Add(k, t)
	f.later(tagBucket, k.key(), t.encode())
}

// DropTag forgets what k meant.
func (f *Facts) DropTag(k TagKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tags.Remove(k)
	f.later(tagBucket, k.key(), nil)
}

// Deny records that the origin refused a's view, now. Where there was a proof
// the denial is on disk when Deny returns, so that no crash revives the proof;
// should the disk fail, the denial holds in memory and the error is logged.
func (f *Facts) Deny(a Access) {
	f.mu.Lock()
	old := f.accessProof(a)
	p := proof{denied: f.o.Now()}
	f.access.Add(a, p)
	f.mu.Unlock()
	if f.disk == nil || old.proven.IsZero() {
		return
	}
	if err := f.disk.now(accessBucket, a.key(), p.encode()); err != nil {
		f.o.Log.Error("a denial could not be written; it holds until the next restart", "repository", a.Repo, "err", err)
	}
}

func (f *Facts) accessProof(a Access) proof {
	if p, ok := f.access.Get(a); ok {
		return p
	}
	if f.disk == nil {
		return proof{}
	}
	p, ok := f.disk.proof(accessBucket, a.key())
	if ok {
		f.access.ContainsOrAdd(a, p)
	}
	return p
}

func (f *Facts) memberProof(m Member) proof {
	if p, ok := f.members.Get(m); ok {
		return p
	}
	if f.disk == nil {
		return proof{}
	}
	p, ok := f.disk.proof(memberBucket, m.key())
	if ok {
		f.members.ContainsOrAdd(m, p)
	}
	return p
}

func (f *Facts) later(bucket bucket, key, value []byte) {
	if f.disk != nil {
		f.disk.later(bucket, key, value)
	}
}
