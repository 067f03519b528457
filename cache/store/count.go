package store

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"berth/oci"
)

// entry is a published blob.
type entry struct {
	path string
	size int64
	used time.Time
	// frees is what would come free without it.
	frees gain
}

// tally is what a leaf, a folder of blobs, sums up to.
type tally struct{ bytes, blobs int64 }

// count counts the folder for the first time.
func (c *capacity) count(ctx context.Context) {
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if err := c.walk(ctx, func(entry) {}); err != nil && ctx.Err() == nil {
		c.o.Log.Warn("counting the cache", "err", err)
	}
	c.mu.Lock()
	foreign := c.foreign
	c.mu.Unlock()
	if foreign > 0 {
		c.o.Log.Info("the cache folder holds files that are not the cache's; they are left alone", "files", foreign)
	}
	close(c.counted)
}

// walk shows all blobs to see, and sets right what they sum up to: others may have
// deleted some. There can be a million of them, so it goes leaf by leaf and keeps
// none. Caller holds evicting.
func (c *capacity) walk(ctx context.Context, see func(entry)) error {
	leaves, foreign, err := c.leaves()
	if err != nil {
		return err
	}
	for _, leaf := range leaves {
		if err := ctx.Err(); err != nil {
			return err
		}
		all, others := c.list(leaf)
		foreign += others
		for _, e := range all {
			see(e)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.foreign = foreign
	return nil
}

// leaves lists the folders that hold blobs, "blobs/origin/sha256/ab", and those
// that did when they were counted last. Other files are counted; a folder that
// cannot be read is passed over.
func (c *capacity) leaves() (leaves []string, foreign int64, err error) {
	level := []string{c.blobs}
	for depth := range 3 {
		var next []string
		for _, dir := range level {
			entries, err := c.disk.readDir(dir)
			if err != nil && depth == 0 {
				return nil, 0, err
			}
			for _, e := range entries {
				if e.IsDir() && (depth < 2 || len(e.Name()) == 2) {
					next = append(next, dir+"/"+e.Name())
				} else {
					foreign++
				}
			}
		}
		level = next
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for leaf := range c.tallies {
		level = append(level, leaf)
	}
	slices.Sort(level)
	return slices.Compact(level), foreign, nil
}

// list counts the blobs of a leaf and gives them. Files that are no blobs are
// counted apart; symbolic links are none.
func (c *capacity) list(leaf string) (all []entry, foreign int64) {
	c.names.Lock()
	defer c.names.Unlock()
	entries, err := c.disk.readDir(leaf)
	if err != nil {
		entries = nil // passed over, or deleted
	}
	var now tally
	for _, e := range entries {
		path := leaf + "/" + e.Name()
		if !e.Type().IsRegular() || !isBlob(path[len(c.blobs):]) {
			foreign++
			continue
		}
		info, err := e.Info()
		switch {
		case err == nil:
			all = append(all, entry{path: path, size: info.Size(), used: info.ModTime(), frees: freedBy(info)})
			now.bytes += info.Size()
			now.blobs++
		case !errors.Is(err, fs.ErrNotExist): // else somebody has deleted it just now
			foreign++
		}
	}
	owners := map[owner]bool{}
	for _, e := range all {
		if time.Since(e.used).Abs() < ownFor {
			owners[markedBy(e.used)] = true
		}
	}
	origin, _, _ := strings.Cut(leaf[len(c.blobs)+1:], "/")
	c.mu.Lock()
	defer c.mu.Unlock()
	for o := range owners {
		if of := c.origins[o]; len(of) < mostOrigins && !slices.Contains(of, origin) {
			c.origins[o] = append(of, origin)
		}
	}
	was := c.tallies[leaf]
	c.add(leaf, now.bytes-was.bytes, now.blobs-was.blobs)
	return all, foreign
}

// freedBy is what would come free without this file. One with more names, in other
// origins, counts with its part of the filesystem's bytes.
func freedBy(info fs.FileInfo) gain {
	bytes, names := info.Size(), int64(1)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		names = max(int64(st.Nlink), 1)
		if st.Blocks > 0 { // not all filesystems count them
			bytes = st.Blocks * 512 // whatever the filesystem's own block is
		}
	}
	return gain{kept: info.Size(), blobs: 1, bytes: bytes / names, files: 1 / names}
}

// isBlob says whether path is one that Store.path makes, "/origin/sha256/ab/ab...".
func isBlob(path string) bool {
	parts := strings.Split(path, "/")
	if len(parts) != 5 {
		return false
	}
	_, err := oci.ParseDigest(parts[2] + ":" + parts[4])
	return err == nil && strings.HasPrefix(parts[4], parts[3]) && len(parts[3]) == 2
}

// add counts bytes and blobs, or fewer. Caller holds mu.
func (c *capacity) add(leaf string, bytes, blobs int64) {
	c.kept += bytes
	c.blobCount += blobs
	t := c.tallies[leaf]
	t.bytes += bytes
	t.blobs += blobs
	if t == (tally{}) {
		delete(c.tallies, leaf)
		return
	}
	c.tallies[leaf] = t
}
