// Package cache is a registry read through the disk: an oci.Source that wraps
// the one that asks upstream. It decides who may have what (proof.Decide),
// serves what is there, and fetches once for everyone who wants the same: a
// manifest by one GET (manifest.go), a blob by one download (package download).
//
// It leaves HTTP to proxy and upstream, and files to store. Cache trouble fails
// open: the pull goes past the disk. Doubt about rights fails closed: upstream
// is asked, as the caller.
package cache

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"berth/cache/download"
	"berth/cache/proof"
	"berth/cache/store"
	"berth/fleet"
	"berth/fleet/seal"
	"berth/internal/flight"
	"berth/internal/hold"
	"berth/internal/registry"
	"berth/internal/share"
	"berth/oci"
)

// Options of New. The zero value works but for Dir.
type Options struct {
	// Dir is the cache folder. One process may use it at a time.
	Dir string
	// MaxSize in bytes, or Limits; see store.Options.
	MaxSize int64
	Limits  func(total int64) (maxSize, minFree int64, err error)
	// Times are the defaults of Upstream.Times; see proof.Options.
	Times proof.Times
	// HotBytes bounds the manifests and small blobs kept in memory. If 0, 16 MiB.
	HotBytes int64
	// ParkAfter, Parallel and Connections are those of download.Options.
	ParkAfter             time.Duration
	Parallel, Connections int
	// Admit waits until organisation may start another download of a blob, which
	// goes on until end is called. If nil, everybody may at once.
	Admit func(ctx context.Context, organisation string) (end func(), err error)
	// Owner is that of store.Options.
	Owner func(organisation string) uint64
	// Fleet is what other nodes have fetched; nil: this node is alone.
	Fleet *fleet.Tier
	// Held names manifests that are not evicted, nor what they list. If nil, there are
	// none. See store.Options.
	Held func(ctx context.Context, keep func(origin string, manifest oci.Digest))
	// Now is the clock of proofs and tags. If nil, time.Now.
	Now func() time.Time
	// Log gets what an operator should know. If nil, nothing is logged.
	Log *slog.Logger

	// PublicAfter is how long after a yes to an account the registry is asked whether it
	// shows everyone the same. If 0, half a minute.
	PublicAfter time.Duration

	// fault makes file operations fail, in tests; see store.Options.
	fault func(op store.Op, path string) error
}

// Cache is one cache folder and what is known about its content. It is safe for
// concurrent use.
type Cache struct {
	o      Options
	folder *folder
	proofs *proof.Proofs
	hot    *share.LRU[hotKey, hotEntry]
	parsed *share.LRU[hotKey, parsed]
	lists  lists
	// proofFile is what the proofs are kept in; nil: in memory only.
	proofFile os.FileInfo

	// Requests that prove something, per principal and object.
	stats      *flight.Group[questionKey, *oci.Content]
	insistence *insistence
	resolves   *flight.Group[questionKey, *oci.Resolution]

	fleet     *fleetState // nil: this node is alone
	manifests *manifestGets
	downloads *download.Table
	trouble   *trouble

	// missing holds the answer 404, for the principal that got it.
	missing *hold.Table[questionKey]
	// slow holds what nobody waits for where there is a stale copy.
	slow *hold.Table[proof.Access]
	// private holds the repositories that do not show everyone what they show an account,
	// and those where that is being asked.
	private *hold.Table[proof.Access]
	public  *flight.Group[proof.Access, struct{}]
	shows   *flight.Group[questionKey, bool]
	// unguessed chooses what is shown of a blob.
	unguessed maphash.Seed
	// renewed holds the manifests that have renewed what they list.
	renewed *hold.Table[proof.Member]

	counts counts
	descs  descs

	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	wg     sync.WaitGroup // what looks after the folder
	writes sync.WaitGroup // of manifests, after their requests were answered
}

// New opens the folder. It does not go upstream. A folder that cannot be used is no
// error: pulls go past it until it can. Only what somebody has to decide is one:
// store.ErrInUse and store.ErrForeign.
func New(o Options) (*Cache, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.HotBytes == 0 {
		o.HotBytes = 16 << 20
	}
	c := &Cache{o: o, descs: newDescs()}
	c.folder = &folder{dir: o.Dir, none: store.None(), log: o.Log, reopened: c.dropOldProofs, open: func() (*store.Store, error) {
		return store.Open(o.Dir, store.Options{
			MaxSize: o.MaxSize, Limits: o.Limits, Log: o.Log, Fault: o.fault, Corrupt: c.counts.wasCorrupt,
			Owner: o.Owner, Held: c.held,
		})
	}}
	usable, err := c.folder.begin()
	if err != nil {
		return nil, err
	}
	if err := c.openProofs(usable); err != nil {
		_ = c.folder.close() // the first error counts
		return nil, err
	}
	c.hot, c.parsed, c.lists = newHot(o.HotBytes), share.New[hotKey, parsed](mostParsed, nil), newLists()
	c.trouble = newTrouble(&c.o, c.folder)
	c.downloads = download.NewTable(download.Options{
		Store: c.folder.there, Parallel: o.Parallel, Connections: o.Connections, ParkAfter: o.ParkAfter,
		Admit: o.Admit, Report: c.trouble, Log: o.Log,
	})
	c.fleet = newFleetState(o.Fleet)
	c.manifests = newManifestGets()
	c.stats = flight.New[questionKey, *oci.Content](askTimeout)
	c.resolves = flight.New[questionKey, *oci.Resolution](askTimeout)
	c.shows, c.unguessed = flight.New[questionKey, bool](askTimeout), maphash.MakeSeed()
	c.missing, c.slow = hold.New[questionKey](8192, o.Now), hold.New[proof.Access](8192, o.Now)
	c.insistence, c.renewed = newInsistence(o.Now), hold.New[proof.Member](8192, o.Now)
	c.private, c.public = hold.New[proof.Access](8192, o.Now), flight.New[proof.Access, struct{}](max(o.PublicAfter, publicAfter)+askTimeout)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.keepLooking)
	return c, nil
}

func proofPath(o Options) string { return filepath.Join(o.Dir, "facts.db") }

// dropOldProofs deletes a facts.db that came with a folder in the middle of a run. It
// knows nothing of what was denied meanwhile, and the next start would take an older
// proof in it for the last word.
func (c *Cache) dropOldProofs() {
	there, err := os.Lstat(proofPath(c.o))
	if err != nil || c.proofFile != nil && os.SameFile(there, c.proofFile) {
		return
	}
	if err := os.Remove(proofPath(c.o)); err != nil {
		c.o.Log.Error("an old facts.db cannot be deleted: delete it before the next start, since it does not know what was denied meanwhile", "err", err)
	}
}

// openProofs opens the proofs. A disk that cannot keep them costs what they save
// after a restart, and no pull.
func (c *Cache) openProofs(usable bool) (err error) {
	o := c.o
	fo := proof.Options{
		AccessTTL: o.Times.AccessTTL, TagTTL: o.Times.TagTTL, Grace: o.Times.Grace, Doubt: o.Times.Doubt, Now: o.Now, Log: o.Log,
	}
	if usable { // else that was said
		if c.proofs, err = proof.Open(proofPath(o), fo); err == nil {
			c.proofFile, _ = os.Stat(proofPath(o)) // if it went at once there is none to be known again
			return nil
		}
		o.Log.Error("facts.db cannot be opened; until the next start facts are kept in memory only", "err", err)
	}
	c.proofs, err = proof.Open("", fo)
	return err
}

// Close ends running fills, waits for everything that was started, and writes
// pending proofs. Nothing may call the cache any more.
func (c *Cache) Close() error {
	c.cancel()
	c.public.Close()
	c.stats.Close()
	c.resolves.Close()
	c.shows.Close()
	c.manifests.calls.Close()
	c.downloads.Close()
	c.writes.Wait()
	c.wg.Wait()
	err := c.proofs.Close()
	if serr := c.folder.close(); err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("closing the cache: %w", err)
	}
	return nil
}

// Upstream is a registry as one organisation may see it.
type Upstream struct {
	// Spec is the registry.
	Spec *registry.Spec
	// Organisation is who pulls, whatever the principal it is asked as; empty: nobody.
	Organisation string
	// As asks the origin as the organisation.
	As oci.Source
	// Shared asks as the shared principal, for nobody in particular: what it answers names
	// no organisation, and what it asks counts against this one's limits.
	Shared oci.Source
	// Without says why the shared principal does without this node's account there now,
	// although it has one; nil: it does not. If the func is nil, it never does.
	Without func(repo string) *oci.Error
	// Spend takes one of the manifests that the organisation may have as the shared
	// principal; undo gives it back when none came. If nil, it may have any number.
	Spend func() (undo func(), err error)
	// Scopes are those of the fleet that the account has which the organisation asks about
	// repo with, the one that is written first. If nil, it has none.
	Scopes func(ctx context.Context, repo string) []seal.Scope
	// Mirrors are copies of the registry, in the order in which they are asked for
	// bytes that it cannot give.
	Mirrors []oci.Source
	// Times say how long proofs and tags are worth something here; a zero time
	// is the cache's.
	Times proof.Times
}

// Through is u read through the cache.
func (c *Cache) Through(u Upstream) oci.Source {
	folder := u.Spec.Origin.Dir()
	s := &source{c: c, u: u, origin: folder, place: place{folder: folder, bytes: proof.FromOrigin}, proofs: c.proofs.For(u.Organisation, u.Times)}
	c.counts.know(s.origin, u.Spec.Label())
	if u.Spec.Uniform() {
		shared := u
		shared.As = u.Shared
		s.shared = &source{c: c, u: shared, origin: s.origin, place: s.place, proofs: s.proofs}
	}
	return s
}

// Proofs are where a policy notes what it has to know over a restart.
func (c *Cache) Proofs() *proof.Proofs { return c.proofs }

// Downloads are those that run, for people.
func (c *Cache) Downloads() []download.Progress { return c.downloads.List() }
