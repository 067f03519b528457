package download

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"berth/cache/store"
	"berth/oci"
)

// ErrRetry says that the download ended while it was being joined, or that there
// was no need for one: look at the disk again, and else join anew.
var ErrRetry = errors.New("the download ended while it was joined")

// Download is one blob on its way from an origin to the disk, and everyone who
// waits for it.
type Download struct {
	table *Table
	key   Key
	share Share // with other nodes; nil: none
	// account is on whose account the blob is kept: that of who started the download.
	account store.Account

	mu    sync.Mutex
	state State
	// shown is the state that waiting readers see. It follows state when a move has
	// given everything back: a reader that looks in the middle of one must not be
	// the first to know.
	shown State
	err   error // why it failed
	// changed is closed and replaced at each move.
	changed    chan struct{}
	requesters []*requester
	readers    map[*Reader]struct{}
	blocks     *store.Blocks // nil until the first answer
	// sources are the requesters that the bytes in blocks came for; resumed: some
	// were left by an earlier download.
	sources []*requester
	resumed bool
	slot    *slot
	// whole: somebody wanted all of it, so it goes on to the end even if that
	// reader left. A docker pull comes back for the rest after seconds.
	whole     bool
	idleSince time.Time // when the last reader left
	pool      pool

	// wake tells a waiting worker to look again at who wants what. It holds one
	// token, so that nobody waits to give it.
	wake chan struct{}
}

// Request is a wish for a blob.
type Request struct {
	Key Key
	// Asker goes upstream as the principal that wants the blob.
	Asker Asker
	// Principal and Repo are as whom and where the blob is asked for.
	Principal oci.Principal
	Repo      string
	// Registry is its name, for people.
	Registry string
	// Share makes what other nodes have to do with a download that is begun for this
	// request. It, or what it makes, may be nil: nothing.
	Share func() Share
	// Organisation is who pulls, and pays for starting a download; empty: nobody.
	Organisation string
	// Owner is the organisation that brought the registry; empty: the platform.
	Owner string
	Range oci.Range
	// Right asks for the right to the blob before the request waits for a slot: how long
	// that takes would tell whoever has none that the blob is not kept. Nil: he has it.
	Right func(context.Context) error
}

// Join attaches a reader to the download of the blob, starting it where there is
// none, and waits until it may read. ctx bounds the waiting and all its reading.
// The content's outcome says whether the download was started or joined, and
// carries the warning under which the principal was let in.
//
// It fails with ErrRetry, with store.ErrDisk where the blob cannot be kept, with
// what the registry answered to this principal, or with why the download failed.
func (t *Table) Join(ctx context.Context, r Request) (*oci.Content, error) {
	slot, err := t.acquire(ctx, r)
	if err != nil {
		return nil, err
	}
	defer slot.giveBack()
	d, rq, started, err := t.attach(r)
	if err != nil {
		return nil, err
	}
	var admitted oci.Outcome
	if rq == nil {
		// The principal is decided about before it gets anywhere near the bytes.
		if admitted, err = r.Asker.Admit(ctx); err != nil {
			return nil, err
		}
		if rq = d.request(r); rq == nil {
			return nil, ErrRetry
		}
	}
	rd, ok := d.enter(rq, r.Range, slot)
	if !ok {
		return nil, ErrRetry
	}
	content, err := d.awaitContent(ctx, rd)
	if err != nil {
		rd.leave()
		return nil, err
	}
	content.Result, content.Warning = oci.Join, cmp.Or(admitted.Warning, rq.want.Asker.Warning())
	if started {
		content.Result = oci.Fill
	}
	return content, nil
}

// attach finds the download or makes it. Without a requester in the answer the
// principal must be admitted first. One whose own first request for this blob is
// under way needs no other: what the registry answers to it, this reader gets.
func (t *Table) attach(r Request) (d *Download, rq *requester, started bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for looked := -1; ; {
		if d, ok := t.all[r.Key]; ok {
			rq, final := d.unanswered(r)
			if final {
				return nil, nil, false, ErrRetry
			}
			return d, rq, false, nil
		}
		if looked == t.ended {
			break
		}
		// A download may have published between the caller's look at the disk and this
		// one. None may wait for that, should the disk hang.
		looked = t.ended
		t.mu.Unlock()
		published := t.published(r.Key)
		t.mu.Lock()
		if published {
			return nil, nil, false, ErrRetry
		}
	}
	rq = newRequester(r)
	rq.readers++
	d = &Download{
		table: t, key: r.Key, account: store.Account{Organisation: r.Organisation, Own: r.Owner != "", Repo: r.Key.Repo}, state: Starting, shown: Starting,
		changed: make(chan struct{}), wake: make(chan struct{}, 1),
		readers: map[*Reader]struct{}{}, requesters: []*requester{rq},
	}
	if r.Share != nil {
		d.share = r.Share()
	}
	t.all[r.Key] = d
	return d, rq, true, nil
}

// published says whether the blob is on the disk, wherever its download has put it.
func (t *Table) published(k Key) bool {
	_, _, err := t.o.Store().Stat(k.Origin, k.Digest)
	if err != nil && k.Scope != "" {
		_, _, err = t.o.Store().Stat(k.Folder(), k.Digest)
	}
	return err == nil
}

// awaitContent waits until the reader may have bytes, or gets its answer.
func (d *Download) awaitContent(ctx context.Context, rd *Reader) (*oci.Content, error) {
	rq := rd.requester
	for {
		d.mu.Lock()
		state, failed, changed := d.shown, d.err, d.changed
		rejected, told, proven := rq.rejected, rq.told, rq.want.Asker.Proven()
		d.mu.Unlock()
		switch {
		case rejected != nil && told:
			return nil, rejected
		case state == Failed || state == Parked:
			return nil, rq.errorFor(failed)
		case rejected != nil:
			// It gets no byte, and its answer when the download has ended or goes on
			// without it.
		case state.readable():
			content, err := (*oci.Content)(nil), ErrRetry
			if proven { // else nobody asked as this principal: its readers have to be admitted
				content, err = rd.content(ctx)
			}
			if errors.Is(err, ErrRetry) {
				d.awaitFinal(ctx) // to find this download again would be no use
			}
			return content, err
		}
		select {
		case <-changed:
		case <-rq.refused:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// awaitFinal waits until those who come find another download, or what this one
// has published.
func (d *Download) awaitFinal(ctx context.Context) {
	for {
		d.mu.Lock()
		final, changed := d.shown.Final(), d.changed
		d.mu.Unlock()
		if final {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// enter counts a reader in and makes sure that a worker runs, in the reader's
// slot if none does yet.
func (d *Download) enter(rq *requester, want oci.Range, slot *slot) (*Reader, bool) {
	d.mu.Lock()
	if d.state.Final() {
		rq.readers--
		d.mu.Unlock()
		return nil, false
	}
	rd := &Reader{download: d, requester: rq, want: want}
	d.readers[rd] = struct{}{}
	if !want.Bounded() {
		d.whole = true
	}
	starts := d.state == Starting && d.slot == nil
	if starts {
		d.slot = slot.take()
	}
	d.mu.Unlock()
	if starts && d.move(Fetching, nil) {
		d.table.announce(d.key)
		d.table.wg.Go(d.run)
	}
	d.nudge()
	return rd, true
}

// nudge tells the worker to look again.
func (d *Download) nudge() {
	select {
	case d.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Corrupt is the error of a blob whose bytes were wrong.
func Corrupt(digest oci.Digest, err error) error {
	if _, done := errors.AsType[*oci.Error](err); done {
		return err
	}
	return &oci.Error{
		Class: oci.Corrupt, Err: err, RetryAfter: 10 * time.Second,
		Message: fmt.Sprintf("the registry sent wrong bytes for %s; nothing of them was kept: try again", digest),
	}
}
