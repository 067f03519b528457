package download

import (
	"errors"
	"fmt"
	"slices"

	"berth/cache/store"
	"berth/oci"
)

// State is where a download stands.
type State uint8

// The states. The last three are final: the download has left the table, and
// whoever comes finds the blob on the disk or starts another download.
const (
	// Starting: it is in the table, and nobody goes upstream yet. Its first reader
	// is about to make it run.
	Starting State = iota + 1
	// Fetching: a worker goes upstream. Readers wait for the first answer, and of
	// a small blob for the last byte, since that is verified before any leaves.
	Fetching
	// Open: readers read along.
	Open
	// Verified: every byte is there and matches the digest. It is being published.
	Verified
	// Parked: nobody has read it for a while. Its blocks stay for the next download.
	Parked
	// Failed: there will be no more bytes.
	Failed
	// Done: it has been published, or the disk refused that after all readers had
	// their bytes.
	Done
)

func (s State) String() string {
	names := [...]string{"none", "starting", "fetching", "open", "verified", "parked", "failed", "done"}
	if int(s) >= len(names) {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return names[s]
}

// Final reports whether no move leads on from s.
func (s State) Final() bool { return s >= Parked }

// readable reports whether readers may be given bytes.
func (s State) readable() bool { return s == Open || s == Verified || s == Done }

// after lists the legal moves out of s.
func (s State) after() []State {
	switch s {
	case Starting:
		return []State{Fetching, Failed}
	case Fetching:
		return []State{Open, Verified, Parked, Failed}
	case Open:
		return []State{Verified, Parked, Failed}
	case Verified:
		return []State{Done}
	}
	return nil
}

// move changes the state, and is the only place that does. It says false, and
// changes nothing, where the move is not legal or where a reader came while the
// download was about to park. err says why a download failed.
//
// The order matters. What a failed download has fetched is parked or dropped
// first, which gives back its room; then it leaves the table and gives back its
// slot, so that a newcomer starts anew and finds a partial that is
// there. Only then are waiters woken, here and in the blocks.
func (d *Download) move(to State, err error) bool {
	if to == Failed && d.blocks != nil { // only its worker fails a download, so the move is legal
		d.blocks.Stop(err)
		if resumable(err) {
			d.blocks.Park()
		} else {
			d.blocks.Drop() // outside the locks: to delete a large file takes a while
		}
	}
	slot, ok := d.leave(to, err)
	if !ok {
		return false
	}
	slot.giveBack() // outside the locks: others wait for it
	d.mu.Lock()
	defer d.mu.Unlock()
	if to.Final() {
		d.tellRejected()
	}
	d.shown = to
	close(d.changed)
	d.changed = make(chan struct{})
	if to == Failed && d.blocks != nil {
		d.blocks.Fail(err)
	}
	return true
}

// leave does what a move does under the locks, and gives the slot that ends with
// it. The blocks of a download that parks are parked before the lock of the table
// is given up: nobody may look for a partial before it is there.
func (d *Download) leave(to State, err error) (*slot, bool) {
	d.table.mu.Lock()
	defer d.table.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.state.after(), to) || to == Parked && len(d.readers) > 0 {
		return nil, false
	}
	d.state, d.err = to, err
	if !to.Final() {
		return nil, true
	}
	if to == Parked {
		d.blocks.Park()
		d.blocks.Fail(store.ErrDiscarded) // nobody reads them
	}
	d.table.remove(d)
	return d.slot, true
}

// resumable reports whether what was fetched is worth keeping although the
// download ended with err.
func resumable(err error) bool {
	return oci.ClassOf(err) != oci.Corrupt && !errors.Is(err, store.ErrMismatch) && !errors.Is(err, store.ErrDisk)
}
