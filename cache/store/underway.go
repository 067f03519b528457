package store

import (
	"sync/atomic"
	"time"
)

// hangsAfter is how long an operation takes on no disk that works, however busy it is.
const hangsAfter = 5 * time.Second

// underWay knows when the operations that are under way began. Nothing can interrupt
// one that hangs; whoever comes later sees it here, and keeps away from the disk.
type underWay struct {
	// began are times in nanoseconds; 0: the place is free. With all of them taken by
	// operations that hang, more need not be known.
	began [64]atomic.Int64
	next  atomic.Uint32 // where to look for a free place first
}

// turn is the place of an operation in underWay; -1: it has none.
type turn int

// begin notes an operation. To sync, to list and to remove may take as long as there is
// much to do.
func (u *underWay) begin(op Op) turn {
	if op == OpSync || op == OpList || op == OpRemove {
		return -1
	}
	now := time.Now().UnixNano()
	for range u.began {
		at := int(u.next.Add(1)) % len(u.began)
		if u.began[at].CompareAndSwap(0, now) {
			return turn(at)
		}
	}
	return -1
}

func (u *underWay) end(at turn) {
	if at >= 0 {
		u.began[at].Store(0)
	}
}

// Hangs says since when the disk hangs: an operation on it does not return. False: it
// does not, as far as is known.
func (s *Store) Hangs() (since time.Time, hangs bool) {
	oldest := time.Now().Add(-hangsAfter).UnixNano()
	for i := range s.disk.underWay.began {
		if began := s.disk.underWay.began[i].Load(); began != 0 && began <= oldest {
			return time.Unix(0, began), true
		}
	}
	return time.Time{}, false
}
