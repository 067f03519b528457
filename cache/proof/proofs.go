// Package proof remembers what origins have proven to us, and decides by it
// whether cached bytes may be released (Decide).
//
// Three kinds of proof are kept: that a principal may read a repository (access),
// that a digest belongs to a repository (membership), and what a tag meant to
// a principal. Memory answers; behind it a file keeps positive proofs, written once
// a second, for grace and for membership after a restart. Denials are on disk
// before Deny returns.
//
// The package asks nobody: asking upstream, and serving, are the cache's work.
// Provenance is not here either: the path of a blob is its proof of origin.
package proof

import (
	"sync"
	"time"

	"berth/internal/share"
	"berth/oci"
)

// Access is the key of "this principal may read this repository".
type Access struct {
	Origin    string // oci.Origin.Dir
	Principal oci.Principal
	Repo      string
	// Digest is set only at registries whose rights differ within a repository.
	Digest oci.Digest
}

// Member is the key of "this object is in this repository". It is the same for
// every principal.
type Member struct {
	Origin string
	Repo   string
	Kind   oci.Kind
	Digest oci.Digest
}

// TagKey is the key of what a tag means to a principal.
type TagKey struct {
	Origin    string
	Principal oci.Principal
	Repo      string
	Tag       string
}

// Tag is what a tag meant.
type Tag struct {
	MediaType string
	Digest    oci.Digest
	Size      int64
	// Asked is when the request that said so was sent.
	Asked time.Time
	// restored: read back from the file, so never fresh.
	restored bool
}

// Proofs is safe for concurrent use. Close it to write what is pending.
type Proofs struct {
	o Options
	// by is the organisation that asks. What it makes memory and file keep counts for
	// it, also where that is about nobody in particular.
	by string
	*memory
}

// memory is what a Proofs and those made For organisations have in common.
type memory struct {
	disk *disk // nil: memory only

	// mu orders everything but reads that memory can answer.
	mu      sync.Mutex
	access  table[Access, record]
	members table[Member, record]
	tags    table[TagKey, Tag]
	notes   table[NoteKey, note]
	// claims are when the origin said last that an object is in a repository which has not
	// shown it.
	claims *share.LRU[Member, time.Time]
	// forgotten says when Forget was called for an organisation; under mu.
	forgotten map[string]time.Time
}

// Open reads the file at path, or makes it. An empty path keeps proofs in
// memory only. Of a file of another version only the memberships stay, which costs HEADs. A
// file that is damaged is moved aside: then repositories have to show again what is kept.
// The error is about the folder or the disk, or says that another process has the file;
// that takes a second to find out.
func Open(path string, o Options) (f *Proofs, err error) {
	f = &Proofs{o: o.withDefaults(), memory: &memory{forgotten: map[string]time.Time{}}}
	if path != "" {
		if f.disk, err = openDisk(path, f.o); err != nil {
			return nil, err
		}
	}
	f.access = newTable(accessBucket, f, f.restoreAccess)
	f.members = newTable(memberBucket, f, func(_ Member, value []byte) (record, bool) { return decodeRecord(value) })
	f.tags = newTable(tagBucket, f, f.restoreTag)
	f.notes = newTable(notesBucket, f, decodeNote)
	f.claims = share.New[Member, time.Time](int64(f.o.Entries), nil)
	return f, nil
}

// AccessTTL is how long access stays Fresh here.
func (f *Proofs) AccessTTL() time.Duration { return f.o.AccessTTL }

// Close writes pending proofs and closes the file.
func (f *Proofs) Close() error {
	if f.disk == nil {
		return nil
	}
	return f.disk.close()
}

// Access says what a's proof is worth, and when its request was sent.
func (f *Proofs) Access(a Access) (Age, time.Time) {
	w, _ := f.access.read(f.by, a)
	if !w.proven() {
		return None, time.Time{}
	}
	return f.accessAge(w, f.o.Now()), w.at
}

// accessAge is what a proof of access is worth. Doubt takes from it whatever would
// keep it longer: once an answer was not understood, the registry's silence
// afterwards, or a restart, must not bring grace back.
func (f *Proofs) accessAge(w record, now time.Time) Age {
	age := f.age(w.at, now, f.o.AccessTTL, w.restored)
	recent := elapsed(now, w.at).Abs() < f.o.Doubt
	switch {
	case !w.doubted.IsZero() && !recent:
		return None
	case age == Grace && recent:
		return Recent
	}
	return age
}

// DeniedItself says whether the last answer about a was a denial of the repository,
// and not of the credential.
func (f *Proofs) DeniedItself(a Access) bool {
	w, _ := f.access.read(f.by, a)
	return w.denied && !w.credential
}

// HadAccess says whether a was ever proven, however long ago, and neither denied
// nor put in doubt for good since.
func (f *Proofs) HadAccess(a Access) bool {
	w, _ := f.access.read(f.by, a)
	return w.proven() && (w.doubted.IsZero() || f.accessAge(w, f.o.Now()) != None)
}

// HadMember says whether m was ever proven, however long ago.
func (f *Proofs) HadMember(m Member) bool {
	w, _ := f.members.read(f.by, m)
	return w.proven()
}

// Member says what m's proof is worth.
func (f *Proofs) Member(m Member) Age {
	w, _ := f.members.read(f.by, m)
	if !w.proven() {
		return None
	}
	// A restored membership may be fresh: it says nothing about anyone's rights.
	age := f.age(w.at, f.o.Now(), f.o.MemberTTL, false)
	if !w.doubted.IsZero() {
		return min(age, Grace)
	}
	return age
}

// Claimed says what m's proof is worth, or that the origin has merely said that the
// object is there (Claim). That is enough for what the repository itself is going to send.
func (f *Proofs) Claimed(m Member) Age {
	age := f.Member(m)
	if at, ok := f.claims.Get(m); ok {
		age = max(age, f.age(at, f.o.Now(), f.o.MemberTTL, false))
	}
	return age
}

// Tag gives what k meant and what that is worth. The caller checks access.
func (f *Proofs) Tag(k TagKey) (Tag, Age) {
	t, ok := f.tags.read(f.by, k)
	if !ok {
		return Tag{}, None
	}
	return t, f.age(t.Asked, f.o.Now(), f.o.TagTTL, t.restored)
}

// age turns the time of a proof into its worth. A proof from the future (the
// clock was set back) is never fresh, and outside grace worth nothing.
func (f *Proofs) age(proven, now time.Time, ttl time.Duration, restored bool) Age {
	old := elapsed(now, proven)
	switch {
	case !restored && old >= 0 && old < ttl:
		return Fresh
	case old.Abs() < f.o.Grace:
		return Grace
	}
	return None
}

// elapsed is the longer of what the two clocks in a time.Time say. The monotonic
// one stands still while the machine sleeps; the other one can be set back.
func elapsed(now, then time.Time) time.Duration {
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// Prove records that the origin answered 2xx, with the object of m, to a request made as the
// principal of a and sent at asked. A denial that arrived after asked wins: the proof of
// access is then not recorded, and Prove says so.
func (f *Proofs) Prove(a Access, m Member, asked time.Time) (denied bool) {
	return f.prove(a, m, true, asked)
}

// Claim records that the origin answered 2xx without the object of m in the answer, and
// whether a later denial wins. The repository's membership is renewed where there was one.
func (f *Proofs) Claim(a Access, m Member, asked time.Time) (denied bool) {
	return f.prove(a, m, false, asked)
}

func (f *Proofs) prove(a Access, m Member, shown bool, asked time.Time) (denied bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	access, _ := f.access.get(f.by, a)
	if f.supersedes(access, asked) && f.isAfterForget(a.Principal.Organisation, asked) {
		access = record{at: asked, doubted: access.stillDoubted(asked, f.o.Now())}
		f.access.set(f.by, a, access)
	}
	if old, _ := f.members.get(f.by, m); shown || old.proven() {
		f.member(m, old, asked)
	} else {
		f.claims.Add(f.by, m, asked)
	}
	return access.denied
}

// Show records that the repository has given all of m's object to somebody whose right to it
// was proven by a request that was sent at asked.
func (f *Proofs) Show(m Member, asked time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, _ := f.members.get(f.by, m)
	f.member(m, old, asked)
}

// member records that m was there when asked was. Caller holds mu.
func (f *Proofs) member(m Member, old record, asked time.Time) {
	if f.supersedes(old, asked) {
		f.members.set(f.by, m, record{at: asked, doubted: old.stillDoubted(asked, f.o.Now())})
	}
}

// Renew records that m was still there when asked was, and says whether it had
// ever been proven to be: what was not, is not by this.
func (f *Proofs) Renew(m Member, asked time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, _ := f.members.get(f.by, m)
	if !old.proven() {
		return false
	}
	f.member(m, old, asked)
	return true
}

// Missed records that the origin has told somebody to whom it had shown the
// repository that m is not there. He may have lost his right, which registries hide
// behind the same answer: so m stays a member as far as grace goes, and the next who
// wants it asks. A proof that was asked for later ends that.
func (f *Proofs) Missed(m Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims.Remove(m)
	w, _ := f.members.get(f.by, m)
	if !w.proven() {
		return
	}
	w.doubted = f.o.Now()
	f.members.mustSet(f.by, m, w)
}

// supersedes says whether a proof that was asked for at asked replaces old. Against a
// denial it must have been asked for later. A proof from the future (the clock
// was set back) gives way to any: the new one has a time that can be trusted.
func (f *Proofs) supersedes(old record, asked time.Time) bool {
	return asked.After(old.at) || old.proven() && old.at.After(f.o.Now())
}

// Deny records that the origin refused a's principal, now. Where there was a proof
// the denial is on disk when Deny returns, so that no crash revives the proof.
// Should the disk fail, the denial holds in memory, the error is logged, and
// writing is tried again.
func (f *Proofs) Deny(a Access) { f.deny(a, false) }

// DenyCredential records that the credential was refused, which ends the proof and
// says nothing about the repository. A repository that was denied itself stays so.
func (f *Proofs) DenyCredential(a Access) { f.deny(a, true) }

func (f *Proofs) deny(a Access, credential bool) {
	if f.denyInMemory(a, credential) && f.disk.flush() != nil {
		f.o.Log.Error("a denial is not on disk yet; if the next restart comes before it is, an older proof may serve grace again", "repository", a.Repo)
	}
}

// denyInMemory says whether the file knows, or is about to know, another answer.
func (f *Proofs) denyInMemory(a Access, credential bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, _ := f.access.get(f.by, a)
	w := record{at: f.o.Now(), denied: true, persisted: old.persisted, credential: credential && (!old.denied || old.credential)}
	write := f.disk != nil && (old.proven() || old.persisted && old.credential != w.credential || f.disk.unwritten(accessBucket, a.key()))
	w.persisted = w.persisted || write
	if write {
		f.access.mustSet(f.by, a, w)
	} else {
		f.access.recent.Add(f.by, a, w)
	}
	return write
}

// Doubt records that somebody answered a's principal, now, and said neither yes nor no.
// The proof that there is, if there is one, from then on counts for Options.Doubt
// after it was made and no longer, until the next one. The first doubt is on disk
// when Doubt returns, as a denial is.
func (f *Proofs) Doubt(a Access) {
	if f.doubtInMemory(a) && f.disk.flush() != nil {
		f.o.Log.Error("that an answer was not understood is not on disk yet; if the next restart comes before it is, an older proof may serve grace again", "repository", a.Repo)
	}
}

// doubtInMemory says whether the file is about to learn of it.
func (f *Proofs) doubtInMemory(a Access) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, _ := f.access.get(f.by, a)
	if !w.proven() {
		return false
	}
	news := w.doubted.IsZero()
	w.doubted = f.o.Now()
	if !news || f.disk == nil {
		f.access.recent.Add(f.by, a, w) // no request outlives the process, so after a restart any time will do
		return false
	}
	f.access.mustSet(f.by, a, w)
	return true
}

// SetTag records what k means. An older answer never replaces a newer one.
func (f *Proofs) SetTag(k TagKey, t Tag) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, _ := f.tags.get(f.by, k)
	if old.Asked.After(t.Asked) && !old.Asked.After(f.o.Now()) { // and the clock was not set back since
		return
	}
	if !f.isAfterForget(k.Principal.Organisation, t.Asked) {
		return
	}
	t.restored = false
	f.tags.set(f.by, k, t)
}

// DropTag forgets what k meant.
func (f *Proofs) DropTag(k TagKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.tags.get(f.by, k); !known {
		return
	}
	f.tags.recent.Remove(k)
	if f.disk != nil {
		f.disk.enqueueMust(tagBucket, k.key(), nil)
	}
}

// restoreAccess reads what the file has about a. Caller holds mu.
func (f *Proofs) restoreAccess(a Access, value []byte) (record, bool) {
	w, ok := decodeRecord(value)
	// After the clock was set back, a denial from the future would beat every
	// proof until the clock gets there. All that is known is that it came
	// before now.
	if now := f.o.Now(); w.denied && w.at.After(now) {
		w.at = now
	}
	if w.proven() && !f.mayRestore(a.Principal.Organisation, w.at) {
		return record{}, false
	}
	return w, ok
}

// restoreTag reads what the file has about k. Caller holds mu.
func (f *Proofs) restoreTag(k TagKey, value []byte) (Tag, bool) {
	t, ok := decodeTag(value)
	return t, ok && f.mayRestore(k.Principal.Organisation, t.Asked)
}
