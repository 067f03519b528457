package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"berth/cache/store"
	"berth/oci"
)

// Asker goes upstream for one blob as one principal. What an answer of the
// registry proves or denies is recorded before a method returns. It is safe for
// concurrent use.
type Asker interface {
	// Open asks for a part of the blob.
	Open(ctx context.Context, r oci.Range) (*oci.Content, error)
	// Stat asks for as little as tells the size and proves the right.
	Stat(ctx context.Context) (*oci.Content, error)
	// Admit decides, by what was proven and if need be by asking, whether the
	// principal may have what is kept. The error is the answer where it may not.
	Admit(ctx context.Context) (oci.Outcome, error)
	// Proven reports whether the principal's right to the blob was shown, by Admit
	// or by an answer of the registry to this Asker.
	Proven() bool
	// Warning is for the client's Warning header where an earlier proof stands in for
	// an answer of the registry, which is in trouble; else empty.
	Warning() string
	// Restart forgets where the registry has sent this Asker to: the copy there is
	// bad.
	Restart()
	// Delivered says that the whole blob is here, and matches its digest.
	Delivered()
	// Bypass gives the rest of the blob past the disk, which failed with cause.
	Bypass(ctx context.Context, r Rest, cause error) (io.ReadCloser, error)
}

// Share is what other nodes may give of a blob, and get of it. The Asker takes bytes
// from it; the download tells it what has become of them. Its methods return at once.
type Share interface {
	// Grows says that the blob's bytes come into b from now on.
	Grows(b *store.Blocks)
	// Piece is how long the pieces are in which the next bytes come; runLength is a
	// multiple of it.
	Piece() int64
	// Mixed reports whether other nodes have given a part of what b has.
	Mixed() bool
	// Withheld reports whether readers wait until all bytes are verified.
	Withheld() bool
	// Wrong says that what b has does not match the digest.
	Wrong()
	// Over says that the download has ended.
	Over()
}

// Rest is what a reader lacks when the disk fails in the middle of a blob.
type Rest struct {
	// File has what the reader was given so far: everything before Pos, if Whole.
	File *os.File
	// Pos is where it stands, End where its interest ends, and Size the blob's size.
	Pos, End, Size int64
	// Whole: its last byte may leave only if all bytes match the digest. Else its
	// client checks for itself, chunk by chunk.
	Whole bool
}

// ErrCredentialChanged is the cause of an error about an answer that came for
// another credential than the one it was asked for: nobody can tell what it
// proves.
var ErrCredentialChanged = errors.New("the credential was changed meanwhile")

// requester is a principal on whose behalf a download may go upstream. It is
// guarded by the download's lock.
type requester struct {
	want Request
	// rejected is why the registry refused this requester; refused is closed when
	// its readers may know.
	rejected error
	refused  chan struct{}
	told     bool
	readers  int
	failures int // of requests as this one that were nobody's refusal
}

func newRequester(r Request) *requester { return &requester{want: r, refused: make(chan struct{})} }

func (rq *requester) is(r Request) bool {
	return rq.want.Principal == r.Principal && rq.want.Repo == r.Repo
}

// unanswered counts a reader in for the requester of r whose first request is
// still under way. A reader that was not admitted may only join such a one: that
// answer then decides for both. It must not join one that is proven (the proof
// may have been withdrawn since), nor one that was never asked for because
// another one's answer opened the download.
func (d *Download) unanswered(r Request) (rq *requester, final bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.Final() {
		return nil, true
	}
	if d.state.readable() {
		return nil, false
	}
	for _, rq := range d.requesters {
		if rq.is(r) && rq.rejected == nil && !rq.want.Asker.Proven() {
			rq.readers++
			return rq, false
		}
	}
	return nil, false
}

// request adds a requester that was admitted, or counts a reader in for it. Nil:
// the download is over.
func (d *Download) request(r Request) *requester {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.Final() {
		return nil
	}
	for _, rq := range d.requesters {
		if rq.is(r) && rq.rejected == nil && rq.want.Asker.Proven() {
			rq.readers++
			return rq
		}
	}
	rq := newRequester(r)
	rq.readers++
	d.requesters = append(d.requesters, rq)
	d.tellRejected() // the download goes on without them
	return rq
}

// pick chooses as whom to go upstream: a live requester that has readers before one that
// has none, then one that has failed less often, then the one that was used last. The
// error is why the last of them was rejected.
func (d *Download) pick(last *requester) (*requester, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var best *requester
	var rejected error
	for _, rq := range d.requesters {
		switch {
		case rq.rejected != nil:
			rejected = rq.rejected
		case best == nil || rq.before(best, last):
			best = rq
		}
	}
	if best == nil {
		return nil, rejected
	}
	return best, nil
}

// before says whether to go upstream as rq and not as other.
func (rq *requester) before(other, last *requester) bool {
	switch {
	case (rq.readers > 0) != (other.readers > 0):
		return rq.readers > 0
	case rq.failures != other.failures:
		return rq.failures < other.failures
	}
	return rq == last
}

// failedAs notes that a request as rq brought nothing, and says whether there is
// somebody to ask as who has failed less often.
func (d *Download) failedAs(rq *requester) (others bool) {
	if rq == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	rq.failures++
	return slices.ContainsFunc(d.requesters, func(other *requester) bool {
		return other.rejected == nil && other.readers > 0 && other.failures < rq.failures
	})
}

// organisations are those whose readers wait for the blob now: it comes on the account of
// whichever of them has room for it, whoever it is asked for as.
func (d *Download) organisations() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rq := range d.requesters {
		if rq.rejected == nil && rq.readers > 0 {
			all = append(all, rq.want.Organisation)
		}
	}
	return all
}

// reject takes a requester out that the registry has refused: its readers that
// have no answer yet get err, the others read on. Where no other requester is left
// the download is about to fail, and they learn of it with that.
func (d *Download) reject(rq *requester, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if rq.rejected == nil { // two workers may be refused at once
		rq.rejected = err
	}
	if slices.ContainsFunc(d.requesters, func(rq *requester) bool { return rq.rejected == nil }) {
		d.tellRejected()
	}
}

// tellRejected wakes the readers of rejected requesters. Caller holds the lock.
func (d *Download) tellRejected() {
	for _, rq := range d.requesters {
		if rq.rejected != nil && !rq.told {
			rq.told = true
			close(rq.refused)
		}
	}
}

// errorFor is what the requester's own readers are told after the download failed
// with err.
func (rq *requester) errorFor(err error) error {
	return ErrorFor(rq.want.Principal, rq.want.Repo, rq.want.Key.Digest, err)
}

// ErrorFor is what someone who waited as principal, for repo, is told after what
// was fetched for everyone has failed with err: never what a registry said about
// another's account or repository. ErrRetry: it is about those who were asked as,
// and nobody has asked as this principal.
func ErrorFor(principal oci.Principal, repo string, d oci.Digest, err error) error {
	if rejects(err) {
		return ErrRetry
	}
	e, ok := errors.AsType[*oci.Error](err)
	if !ok || e.About == (oci.About{}) || e.About.Repo == repo && sameOwner(e.About.Principal, principal) {
		return err
	}
	return &oci.Error{
		Class: e.Class, RetryAfter: e.RetryAfter, Err: err,
		Message: fmt.Sprintf("the download of %s that this pull had joined has failed (%s): pull again", d, e.Class),
	}
}

// sameOwner reports whether a and b are one principal, or one organisation's.
func sameOwner(a, b oci.Principal) bool {
	return a == b || !a.Shared() && a.Organisation == b.Organisation
}

// isOver reports whether err, in the middle of the blob, is the end for rq. What may
// be about it or not is so only where there is somebody else to go on as; else it is
// tried again.
func (d *Download) isOver(rq *requester, err error) bool {
	if !rejects(err) || !isRiddle(err) {
		return rejects(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.requesters, func(other *requester) bool { return other != rq && other.rejected == nil })
}

// rejects reports whether an error is about the requester and not about the
// origin: another one may still get the blob.
func rejects(err error) bool {
	class := oci.ClassOf(err)
	return class.Refuses() || class == oci.NotFound || class == oci.RateLimited || class == oci.Policy ||
		isRiddle(err) || errors.Is(err, ErrCredentialChanged)
}

// isRiddle reports whether err is an answer that is neither yes nor no. It may be
// about the account (a login page, "account suspended"), and also about whatever
// stands between.
func isRiddle(err error) bool {
	e, ok := errors.AsType[*oci.Error](err)
	return ok && e.NotUnderstood
}
