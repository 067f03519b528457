package fleet

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"berth/fleet/bucket"
	"berth/oci"
)

const (
	simOrigin = "https/registry.example"
	block     = 1 << 20
	// runLength, workers, largeBlob and layersAtOnce are those of package cache/download,
	// and of containerd.
	simRun, simWorkers, simLarge = 16 << 20, 4, 32 << 20
	layersAtOnce                 = 3
)

// registry is where images come from: fast, but each connection has its limit.
type registry struct {
	out           *link
	perConnection float64
	latency       time.Duration
	manifests     atomic.Int64 // GETs, which registries count
}

// stream sends n bytes to a node, which is told by moved that a piece came.
func (r *registry) stream(ctx context.Context, n *simNode, length, piece int64, moved func(int64)) error {
	if err := rest(ctx, r.latency); err != nil {
		return err
	}
	for length > 0 {
		k := min(length, piece)
		if err := (path{[]*link{r.out, n.down}, r.perConnection}).send(ctx, k); err != nil {
			return err
		}
		n.fetched.Add(k)
		moved(k)
		length -= k
	}
	return nil
}

// image is what all pull.
type image struct {
	manifests [][]byte // the index, and the platform's
	layers    []int64
	sparse    string // the file that every layer's bytes are read from
}

func (i image) size() (n int64) {
	for _, l := range i.layers {
		n += l
	}
	return n
}

// simNode is one machine.
type simNode struct {
	name     string
	w        *world
	down, up *link
	slow     bool
	tier     *Tier // nil: without a fleet
	asked    *asked
	bucket   *bucket.Bucket
	cut      atomic.Bool // it reaches neither engine
	dead     atomic.Bool

	ctx     context.Context // ends when it dies
	die     context.CancelFunc
	fetched atomic.Int64 // bytes of blobs from the registry
	took    time.Duration
	ended   time.Time
	err     error
}

// kill is a SIGKILL.
func (n *simNode) kill() {
	n.dead.Store(true)
	n.asked.at.Kill()
	n.cut.Store(true)
	n.die()
}

func (n *simNode) close() {
	n.die()
	if n.tier != nil {
		n.tier.Close()
		n.asked.gate.Close()
		n.bucket.Close()
	}
}

// pull is what a client does: the manifests, and then the layers, three at a time.
func (n *simNode) pull(img image) error {
	for _, m := range img.manifests {
		if err := n.manifest(m); err != nil {
			return err
		}
	}
	turns := make(chan struct{}, layersAtOnce)
	errs := make([]error, len(img.layers))
	var layers sync.WaitGroup
	for i, size := range img.layers {
		turns <- struct{}{}
		layers.Go(func() {
			defer func() { <-turns }()
			errs[i] = n.layer(digestOfLayer(i), size, img.sparse)
		})
	}
	layers.Wait()
	return errors.Join(errs...)
}

func (n *simNode) manifest(m []byte) error {
	keep := func([]byte) {}
	if n.tier != nil {
		var data []byte
		if data, keep = n.tier.Manifest(n.ctx, n.w.scopes, simOrigin, oci.DigestOf(m)); data != nil {
			return nil
		}
	}
	if err := rest(n.ctx, n.w.registry.latency); err != nil {
		keep(nil)
		return err
	}
	n.w.registry.manifests.Add(1)
	keep(m)
	return nil
}

// layer is what package cache/download does: a few workers, each with one run of bytes
// after another, which come from where Object.Next says.
func (n *simNode) layer(digest oci.Digest, size int64, sparse string) error {
	d := &download{n: n, size: size, blocks: make([]bool, (size+block-1)/block), sparse: sparse, workers: 1}
	if size >= simLarge {
		d.workers = simWorkers
	}
	if n.tier != nil {
		d.object = n.tier.Object("", n.w.scopes, simOrigin, digest, size)
		defer d.object.Over()
		d.object.Grows(d)
	}
	errs := make([]error, d.workers)
	var workers sync.WaitGroup
	for i := range d.workers {
		workers.Go(func() { errs[i] = d.work() })
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.verified.Store(true)
	return nil
}

// download is one blob on its way to a node. It is the File that its Object reads.
type download struct {
	n       *simNode
	object  *Object // nil: without a fleet
	size    int64
	sparse  string
	workers int

	mu       sync.Mutex
	next     int64 // where nobody fetches yet
	have     int64
	blocks   []bool
	verified atomic.Bool
}

func (d *download) Has(from, to int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := from / block; i*block < to; i++ {
		if !d.blocks[i] {
			return false
		}
	}
	return true
}

func (d *download) Verified() bool { return d.verified.Load() }

func (d *download) OpenReader() (*os.File, error) { return os.Open(d.sparse) }

// claim is the next run, shorter towards the end; none: from is the size.
func (d *download) claim() (from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	length := int64(simRun)
	if d.workers > 1 {
		unit := int64(block)
		if d.object != nil {
			unit = d.object.Piece()
		}
		length = min(length, (max(4*block, (d.size-d.have)/int64(2*d.workers))+unit-1)/unit*unit)
	}
	from = d.next
	d.next = min(from+length, d.size)
	return from, d.next
}

// came notes bytes that are in the file.
func (d *download) came(from, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have += n
	for i := from / block; i*block < from+n; i++ {
		d.blocks[i] = min((i+1)*block, d.size) <= from+n // pieces come one after another
	}
}

func (d *download) work() error {
	for {
		pos, to := d.claim()
		if pos == to {
			return nil
		}
		for pos < to {
			n, err := d.step(pos, to)
			if err != nil {
				return err
			}
			pos += n
		}
	}
}

// step fetches what comes next of a run.
func (d *download) step(pos, to int64) (int64, error) {
	ctx, piece, until := d.n.ctx, to-pos, to
	if d.object != nil {
		step, err := d.object.Next(ctx, pos, to)
		if err != nil {
			return 0, err
		}
		if step.Data != nil {
			n := min(int64(len(step.Data)), to-pos)
			d.came(pos, n)
			step.Release()
			return n, nil
		}
		until, piece = step.Until, block
		if d.n.slow { // a lease lives while bytes move
			piece = block / 32
		}
	}
	at := pos
	err := d.n.w.registry.stream(ctx, d.n, until-pos, piece, func(n int64) {
		d.came(at, n)
		if d.object != nil {
			d.object.Moved(int(n))
		}
		at += n
	})
	return until - pos, err
}
