package store

import (
	"container/heap"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
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
	// frees is what the filesystem would have more of without it.
	frees gain
}

// tally is what a leaf, a folder of blobs, sums up to.
type tally struct{ bytes, blobs int64 }

// survey shows all blobs to see, and sets right what they sum up to: others may
// have deleted some. There can be a million of them, so it goes leaf by leaf and
// keeps none. Caller holds evicting.
func (r *room) survey(ctx context.Context, see func(entry)) error {
	leaves, foreign, err := r.leaves()
	if err != nil {
		return err
	}
	for _, leaf := range leaves {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.begin(leaf)
		all, others := r.list(leaf)
		foreign += others
		r.sumUp(leaf, all)
		for _, e := range all {
			see(e)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.foreign = foreign
	return nil
}

// foreigners is how many files in the folder are no blobs.
func (r *room) foreigners() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.foreign
}

// leaves lists the folders that hold blobs, "blobs/origin/sha256/ab", and those
// that did. What else is there is counted; what cannot be read is passed over.
func (r *room) leaves() (leaves []string, foreign int64, err error) {
	level := []string{r.blobs}
	for depth := range 3 {
		var next []string
		for _, dir := range level {
			entries, err := r.disk.readDir(dir)
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
	return r.andCounted(level), foreign, nil
}

// andCounted adds the leaves that somebody has deleted.
func (r *room) andCounted(leaves []string) []string {
	there := make(map[string]bool, len(leaves))
	for _, leaf := range leaves {
		there[leaf] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for leaf := range r.tallies {
		if !there[leaf] {
			leaves = append(leaves, leaf)
		}
	}
	return leaves
}

// list is the blobs of a leaf. What is no blob is counted; symbolic links are
// none.
func (r *room) list(leaf string) (all []entry, foreign int64) {
	entries, err := r.disk.readDir(leaf)
	if err != nil {
		return nil, 0 // passed over, or deleted
	}
	for _, e := range entries {
		path := leaf + "/" + e.Name()
		if !e.Type().IsRegular() || !isBlob(path[len(r.blobs):]) {
			foreign++
			continue
		}
		if info, err := e.Info(); err == nil { // else evicted meanwhile
			all = append(all, entry{path: path, size: info.Size(), used: info.ModTime(), frees: freedBy(info)})
		} else if !errors.Is(err, fs.ErrNotExist) {
			foreign++
		}
	}
	return all, foreign
}

// freedBy is what the filesystem would have more of without this file. One with
// more names, in other origins, counts with its part of the bytes.
func freedBy(info fs.FileInfo) gain {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return gain{info.Size(), 1}
	}
	names := max(int64(st.Nlink), 1)
	const block = 512                          // whatever the filesystem's own is
	if bytes := st.Blocks * block; bytes > 0 { // not all filesystems count them
		return gain{bytes / names, 1 / names}
	}
	return gain{info.Size() / names, 1 / names}
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

// begin notes changes in leaf from now on.
func (r *room) begin(leaf string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.walked, r.changed = leaf, map[string]int64{}
}

// sumUp counts what a look at leaf saw since begin, but where something changed
// meanwhile: there the change counts.
func (r *room) sumUp(leaf string, all []entry) {
	r.names.Lock() // no change is half done
	defer r.names.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	var now tally
	for _, e := range all {
		if _, ok := r.changed[e.path]; !ok {
			now.bytes += e.size
			now.blobs++
		}
	}
	for _, size := range r.changed {
		if size != gone {
			now.bytes += size
			now.blobs++
		}
	}
	was := r.tallies[leaf]
	r.add(leaf, now.bytes-was.bytes, now.blobs-was.blobs)
	r.walked, r.changed = "", nil
}

// add counts bytes and blobs, or fewer. Caller holds mu.
func (r *room) add(leaf string, bytes, blobs int64) {
	r.kept += bytes
	r.blobCount += blobs
	t := r.tallies[leaf]
	t.bytes += bytes
	t.blobs += blobs
	if t == (tally{}) {
		delete(r.tallies, leaf)
		return
	}
	r.tallies[leaf] = t
}

// note records that the blob at path has size now, or is gone, for a look at its
// leaf that is under way. Caller holds names and mu.
func (r *room) note(path string, size int64) {
	if r.changed != nil && filepath.Dir(path) == r.walked {
		r.changed[path] = size
	}
}

// How many blobs are remembered for eviction at a time: enough to get by those
// that cannot go, and not so many that they take much memory.
const (
	fewOldest  = 1 << 10
	mostOldest = 1 << 16
)

// oldest keeps the blobs that were used least recently, as many as have the
// needed bytes. It is a heap with the one used last on top.
type oldest struct {
	need, bytes int64
	all         []entry
	// most is what would come free if every blob went.
	most gain
}

// see takes e in, and lets go of what is not needed any more.
func (o *oldest) see(e entry) {
	o.most.bytes += e.frees.bytes
	o.most.files += e.frees.files
	heap.Push(o, e)
	for len(o.all) > fewOldest && (o.bytes-o.all[0].size >= o.need || len(o.all) > mostOldest) {
		heap.Pop(o)
	}
}

// sorted gives them, the oldest first.
func (o *oldest) sorted() []entry {
	slices.SortFunc(o.all, func(a, b entry) int { return a.used.Compare(b.used) })
	return o.all
}

// Len, Less, Swap, Push and Pop are heap.Interface's.
func (o *oldest) Len() int           { return len(o.all) }
func (o *oldest) Less(i, j int) bool { return o.all[i].used.After(o.all[j].used) }
func (o *oldest) Swap(i, j int)      { o.all[i], o.all[j] = o.all[j], o.all[i] }

func (o *oldest) Push(x any) {
	e, _ := x.(entry) // see pushes nothing else
	o.all = append(o.all, e)
	o.bytes += e.size
}

func (o *oldest) Pop() any {
	e := o.all[len(o.all)-1]
	o.all = o.all[:len(o.all)-1]
	o.bytes -= e.size
	return e
}
