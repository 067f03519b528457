package store

import (
	"hash/fnv"
	"time"
)

// owner is the organisation for which a blob was fetched, as a number; 0: nobody knows,
// or nobody in particular. It decides who gives way where there is no room, and nothing
// else. Two organisations that share a number share what they may keep: of a thousand
// some fifteen do, by chance. Options.Owner sees to it that nobody can choose to.
//
// A blob's modification time is its last use, to the minute, so what the time has below
// a second is free to say whose the blob is: it survives a restart, costs a walk
// nothing, and changes no form. Where a filesystem does not keep it, or somebody copied
// the files without their times, the blob is nobody's.
type owner uint32

const (
	owners = 1 << 16
	// ownerStep and ownerMark make nanoseconds of an owner. One in ownerStep of files
	// that were not marked looks marked by chance, and is somebody's for a week: every
	// new blob is marked, nobody's too.
	ownerStep, ownerMark = 15_000, 7_891
)

func (s *Store) owner(organisation string) owner {
	switch {
	case organisation == "":
		return 0
	case s.o.Owner != nil:
		return owner(s.o.Owner(organisation)%(owners-1) + 1)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(organisation)) // it never fails
	return owner(h.Sum64()%(owners-1) + 1)
}

// mark is the time of last use t of a blob that is o's.
func (o owner) mark(t time.Time) time.Time {
	t = t.Truncate(time.Second)
	if o == 0 {
		return t
	}
	return t.Add(time.Duration(o)*ownerStep + ownerMark)
}

// markedBy is whose the blob is that was used last at t.
func markedBy(t time.Time) owner {
	if t.Nanosecond()%ownerStep != ownerMark {
		return 0
	}
	return owner(t.Nanosecond() / ownerStep)
}

// Account is on whose account a blob is kept.
type Account struct {
	// Organisation is for whom it was fetched; empty: nobody.
	Organisation string
	// Own: it is from a registry that the organisation brought. Such a one can say any
	// size, and never end.
	Own bool
	// Repo is the only repository by which its bytes come; empty: any of the registry's.
	Repo string
}

// account is an Account in the store.
type account struct {
	owner owner
	own   bool
}

// ownFor is for how long after its last use a blob is its owner's. Until then, where
// there is no room, the one gives way who has the most; later all blobs go by age.
const ownFor = 7 * 24 * time.Hour

// want is room for n bytes on an owner's account. With own, they may take the place of
// what is his or nobody's any more, and not of what others have used within ownFor.
type want struct {
	owner owner
	n     int64
	own   bool
}
