package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoRoom says that a blob does not fit, even after evicting what could go.
var ErrNoRoom = errors.New("no room in the cache")

// touchEvery is how coarse last-use times are: a blob's modification time is
// its last use, moved at most this often so that reading costs no write.
const touchEvery = time.Hour

// room accounts for the bytes of the folder and evicts the least recently used
// blobs. Growing blobs count from the moment that they are reserved.
type room struct {
	blobs string
	o     Options

	evicting sync.Mutex // one sweep at a time

	mu   sync.Mutex
	size int64 // bytes of blobs, and reserved

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newRoom(blobs string, o Options) *room {
	ctx, cancel := context.WithCancel(context.Background())
	r := &room{blobs: blobs, o: o, cancel: cancel}
	// Counting a large cache takes long; nothing waits for it.
	r.wg.Go(func() { r.count(ctx) })
	return r
}

func (r *room) close() {
	r.cancel()
	r.wg.Wait()
}

func (r *room) count(ctx context.Context) {
	all, err := r.list(ctx)
	if err != nil {
		r.o.Log.Warn("counting the cache", "err", err)
		return
	}
	var sum int64
	for _, e := range all {
		sum += e.size
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size += sum
}

// reserve takes n bytes, evicting where needed.
func (r *room) reserve(n int64) error {
	if r.take(n) {
		return nil
	}
	if r.o.MaxSize > 0 && n > r.o.MaxSize {
		return fmt.Errorf("%w: %d bytes, the cache is limited to %d", ErrNoRoom, n, r.o.MaxSize)
	}
	if err := r.evict(n); err != nil {
		return fmt.Errorf("evicting: %w", err)
	}
	if !r.take(n) {
		return fmt.Errorf("%w: %d bytes", ErrNoRoom, n)
	}
	return nil
}

func (r *room) take(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over(n) > 0 {
		return false
	}
	r.size += n
	return true
}

// over is how many bytes must go before n more fit. Caller holds mu.
func (r *room) over(n int64) int64 {
	var over int64
	if r.o.MaxSize > 0 {
		over = r.size + n - r.o.MaxSize
	}
	var st unix.Statfs_t
	if r.o.MinFree > 0 && unix.Statfs(r.blobs, &st) == nil {
		over = max(over, n+r.o.MinFree-int64(st.Bavail)*st.Bsize)
	}
	return over
}

func (r *room) freed(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size -= n
}

// used notes that a blob was opened.
func (r *room) used(path string, info fs.FileInfo) {
	now := time.Now()
	if now.Sub(info.ModTime()) > touchEvery {
		_ = os.Chtimes(path, now, now) // only the order of eviction suffers
	}
}

type entry struct {
	path string
	size int64
	used time.Time
}

// list walks the blobs. Files that are no blobs are passed over.
func (r *room) list(ctx context.Context) ([]entry, error) {
	var all []entry
	err := filepath.WalkDir(r.blobs, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // evicted meanwhile
			}
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			all = append(all, entry{path: path, size: info.Size(), used: info.ModTime()})
		}
		return nil
	})
	return all, err
}

// evict removes the least recently used blobs until n more bytes fit. Readers
// that have one open read on.
func (r *room) evict(n int64) error {
	r.evicting.Lock()
	defer r.evicting.Unlock()
	all, err := r.list(context.Background())
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b entry) int { return a.used.Compare(b.used) })
	for _, e := range all {
		r.mu.Lock()
		enough := r.over(n) <= 0
		r.mu.Unlock()
		if enough {
			return nil
		}
		if err := os.Remove(e.path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		r.freed(e.size)
	}
	return nil
}
