// Package store keeps blobs on disk: it opens published ones by their path,
// takes in growing ones block by block (Blocks), checks them against their
// digest, publishes them so that a crash leaves a whole file or none, and keeps
// the folder within its size.
//
// The folder is the only truth; nothing needs an index to be served. A blob
// lies under the origin that delivered it in full, so opening the path is the
// proof of where it came from. Who may read it is decided elsewhere, and so is
// what to fetch.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"berth/oci"
)

// Options of Open. The zero value works.
type Options struct {
	// MaxSize in bytes of everything kept, growing blobs included. If 0, no
	// limit but the disk's.
	MaxSize int64
	// MinFree in bytes is left to others on the filesystem.
	MinFree int64
	// Limits, if not nil, says both for a filesystem of total bytes; 0: it does not
	// say how large it is.
	Limits func(total int64) (maxSize, minFree int64, err error)
	// Boot names the time since the kernel started: what was written before it
	// and not synced may be lost. If empty, the kernel is asked.
	Boot string
	// Fault, if not nil, is asked before each file operation; an error is what
	// the operation then returns. It is for tests.
	Fault func(op Op, path string) error
	// Held, if not nil, names the blobs that are not evicted. Together they may be a
	// quarter of what may be kept; what is named beyond that is evicted like any other.
	Held func(ctx context.Context, keep func(origin string, d oci.Digest))
	// Corrupt, if not nil, is told of each blob of an origin that had gone bad.
	Corrupt func(origin string)
	// Owner makes the number by which the folder remembers whose a blob is. It should be
	// keyed: whoever can compute it may choose a name that is taken for another's, and
	// push that one's blobs out. If nil, it is a plain hash, which is for tests.
	Owner func(organisation string) uint64
	// Log gets what an operator should know. If nil, nothing is logged.
	Log *slog.Logger
}

// Store is one cache folder. It is safe for concurrent use.
type Store struct {
	dir      string
	o        Options
	lock     *lock
	disk     *disk
	capacity *capacity
	checks   *checks

	mu      sync.Mutex
	origins map[string]bool // origin folders that exist
	folders map[string]bool // folders known to be durable
}

// Errors of Open that somebody has to mend before anything may be kept there.
var (
	// ErrInUse: another process has the folder.
	ErrInUse = errors.New("another process uses this cache folder")
	// ErrForeign: the folder was something else before.
	ErrForeign = errors.New("this is no cache folder")
)

// Open takes the folder for this process, makes it where needed, keeps the partials
// in its tmp that can be resumed, and deletes everything else there: it belongs to a
// process that is gone.
func Open(dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Boot == "" {
		o.Boot = bootID()
	}
	d := &disk{fault: o.Fault, log: o.Log}
	if err := d.mkdirAll(dir); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w", err)
	}
	if o.Limits != nil {
		var err error
		if o.MaxSize, o.MinFree, err = o.Limits(d.space(dir).total); err != nil {
			return nil, err
		}
	}
	lock, err := d.lockFolder(dir, o.Boot)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, lock: lock, disk: d, checks: newChecks(), origins: map[string]bool{}, folders: map[string]bool{}}
	if err := s.prepare(dir); err != nil {
		_ = lock.release() // the first error counts
		return nil, fmt.Errorf("preparing the cache folder: %w", err)
	}
	s.capacity.start()
	return s, nil
}

// None is a store without a folder: it has nothing, and takes nothing in.
func None() *Store {
	nothing := func(Op, string) error { return fs.ErrNotExist }
	s := &Store{lock: &lock{}, disk: &disk{fault: nothing}, checks: newChecks()}
	s.lock.released.Store(true)
	s.capacity = newCapacity("", s.o, s.disk, s.checks, s.Gone)
	s.capacity.cancel()
	return s
}

func (s *Store) prepare(dir string) (err error) {
	// Blobs are opened by a path without symbolic links; those above are the
	// operator's business.
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if s.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	if err := s.mark(); err != nil {
		return err
	}
	if err := s.findOrigins(); err != nil {
		return err
	}
	s.capacity = newCapacity(filepath.Join(s.dir, "blobs"), s.o, s.disk, s.checks, s.Gone)
	return s.restorePartials()
}

// tag says what the folder is, to backup programs and to the next Open. See
// https://bford.info/cachedir/
const tag = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of container images."

// mark makes sure that the folder is a cache of ours: tmp will be emptied, and
// somebody may have named their home, or /. Only a folder that was tagged before
// may have a tmp already.
func (s *Store) mark() error {
	path := filepath.Join(s.dir, "CACHEDIR.TAG")
	found, err := os.ReadFile(path)
	tagged := err == nil && bytes.HasPrefix(found, []byte(tag))
	for _, name := range []string{"tmp", "blobs"} {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); err == nil && !tagged {
			return fmt.Errorf("%w: %s has a folder %s, but no CACHEDIR.TAG of this program: if nothing in it is needed, empty it, else choose another", ErrForeign, s.dir, name)
		}
	}
	if !tagged {
		if err := s.disk.writeDurably(path, tag+"\n"); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "blobs"} {
		if _, err := s.disk.makeDir(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) writeDurably(path, text string) error {
	f, err := d.openFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = d.writeAt(f, []byte(text), 0)
	if err := errors.Join(err, d.sync(f), f.Close()); err != nil {
		return err
	}
	return d.syncFolder(filepath.Dir(path))
}

func (s *Store) findOrigins() error {
	entries, err := s.disk.readDir(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			s.origins[e.Name()] = true
		}
	}
	return nil
}

// Close ends the background work and lets another process take the folder.
// Files that are open stay readable.
func (s *Store) Close() error {
	s.capacity.close()
	s.checks.running.Close()
	return s.lock.release()
}

// Limit is how many bytes may be kept; 0: no limit but the disk's.
func (s *Store) Limit() int64 { return s.o.MaxSize }

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

// Usage is what a Store holds.
type Usage struct {
	// Bytes of blobs, and of what is reserved for growing ones. Until the folder
	// has been counted, a moment after Open, only the latter are known.
	Bytes int64
	// Blobs that are published. The same bytes from two origins are two.
	Blobs int64
	// Evicted blobs since Open.
	Evicted int64
	// Foreign files among the blobs: they are left alone.
	Foreign int64
}

// Usage says what is held now.
func (s *Store) Usage() Usage {
	c := s.capacity
	c.mu.Lock()
	defer c.mu.Unlock()
	return Usage{Bytes: c.kept + c.growing, Blobs: c.blobCount, Evicted: c.evicted, Foreign: c.foreign}
}

// Probe says whether the folder can be written now, by doing it.
func (s *Store) Probe() error {
	if s.Gone() {
		return ErrGone
	}
	f, err := s.disk.createTemp(s.tmp(), "probe-*", 1)
	if err != nil {
		return err
	}
	_, err = s.disk.writeAt(f, []byte{1}, 0)
	if err == nil {
		err = s.disk.sync(f)
	}
	return errors.Join(err, f.Close(), s.disk.remove(f.Name()))
}
