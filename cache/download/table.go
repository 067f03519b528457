package download

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/cache/store"
	"berth/oci"
)

// Key says which blob of which origin, and for which scope of the fleet. Origin is
// oci.Origin's Dir.
type Key struct {
	Origin string
	// Scope is out of which part of the fleet bytes may come; empty: out of none. What
	// did come from there lies in a folder of its own, and only those who go by this
	// scope join the download.
	Scope string
	// Repo is the only repository by which bytes may come; empty: any of the origin's. Where
	// a repository may pass on another registry's answers, as proxies do, its yes is no proof
	// that it has the blob: whoever asks there gets what comes from there.
	Repo   string
	Digest oci.Digest
}

// Folder is where the store keeps what came, at least in part, out of the fleet.
func (k Key) Folder() string { return Folder(k.Origin, k.Scope) }

// Folder is that of a scope at an origin. Names of origins have no plus sign.
func Folder(origin, scope string) string {
	if scope == "" {
		return origin
	}
	return origin + "+" + scope
}

// Options of NewTable. The zero value works but for Store
// and Report.
type Options struct {
	// Store gives the store that blobs go to now, or store.None.
	Store func() *store.Store
	// Parallel is how many connections one large download may use. If 0, 4.
	Parallel int
	// Connections is how many the downloads from one origin may use together,
	// beyond the first connection that each has. If 0, 16.
	Connections int
	// ParkAfter is how long a download goes on without a reader. If 0, 30 s.
	ParkAfter time.Duration
	// Admit waits until organisation may start another download, which goes on
	// until release is called. If nil, everybody may at once.
	Admit func(ctx context.Context, organisation string) (release func(), err error)
	// Report is told how downloads end.
	Report Reporter
	// Log gets what an operator should know. If nil, nothing is logged.
	Log *slog.Logger
}

// Reporter is told what downloads find out. Its methods return at once.
type Reporter interface {
	// Corrupt: the registry sent a copy that does not match its digest. Each of the
	// principals has fetched a part of it.
	Corrupt(k Key, principals []oci.Principal)
	// Sound: it sent one that does.
	Sound(Key)
	// DiskFailed: the blob of this size (-1: the registry did not say) could not
	// be kept. err is a store.NoRoom, or what the disk refused.
	DiskFailed(k Key, size int64, err error)
	// Reserved: there was room for it.
	Reserved(k Key, size int64)
	// Kept: a blob was published.
	Kept()
}

// Table has the downloads that are in progress. It is safe for concurrent use.
//
// Locks are taken in this order: the table's, a download's, its blocks'. The
// connections' comes last and leads to no other.
type Table struct {
	o           Options
	connections connections
	buffers     sync.Pool // of *[]byte, what one read takes in

	mu    sync.Mutex
	all   map[Key]*Download
	ended int // how many have left all
	// waiting are the requests that wait for a slot.
	waiting map[*waiter]struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewTable makes an empty table.
func NewTable(o Options) *Table {
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	if o.Connections == 0 {
		o.Connections = 16
	}
	if o.ParkAfter == 0 {
		o.ParkAfter = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &Table{o: o, all: map[Key]*Download{}, waiting: map[*waiter]struct{}{}}
	t.connections.limit, t.connections.at = o.Connections, map[string]workers{}
	t.buffers.New = func() any { b := make([]byte, copyBuffer); return &b }
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Close ends all downloads, parks what can be gone on with, and waits. Nothing
// may use the table any more.
func (t *Table) Close() {
	t.cancel()
	t.wg.Wait()
}

// remove takes d out, unless another has its place. Caller holds mu.
func (t *Table) remove(d *Download) {
	if t.all[d.key] == d {
		delete(t.all, d.key)
		t.ended++
	}
}

// Running reports whether the blob is being fetched, so that to join it costs
// nothing.
func (t *Table) Running(k Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.all[k]
	if !ok {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state > Starting
}

// Len is how many downloads there are.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

// Progress is how far a download has come, for people.
type Progress struct {
	// Registry and Repository are where it is fetched from, as whoever came first
	// asked for it.
	Registry, Repository string
	Digest               oci.Digest
	// Have is how many bytes are there, of Size; -1: the registry has not said.
	Have, Size int64
	// Readers wait for it or read along.
	Readers int
}

// List gives the downloads that run, ordered by registry, repository and digest.
func (t *Table) List() []Progress {
	t.mu.Lock()
	downloads := make([]*Download, 0, len(t.all))
	for _, d := range t.all {
		downloads = append(downloads, d)
	}
	t.mu.Unlock()
	var all []Progress
	for _, d := range downloads {
		if p, ok := d.progress(); ok {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Progress) int {
		return strings.Compare(a.Registry+"/"+a.Repository+a.Digest.String(), b.Registry+"/"+b.Repository+b.Digest.String())
	})
	return all
}

func (d *Download) progress() (Progress, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.Final() || len(d.requesters) == 0 {
		return Progress{}, false
	}
	first := d.requesters[0].want
	p := Progress{Registry: first.Registry, Repository: first.Repo, Digest: d.key.Digest, Size: -1, Readers: len(d.readers)}
	if d.blocks != nil {
		p.Have, p.Size = d.blocks.Have(), d.blocks.Size()
	}
	return p, true
}
