package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/descriptor"
	"berth/oci"
)

const (
	// partialLife is how long the beginning of a blob is kept for a reader that
	// wants the rest.
	partialLife = 24 * time.Hour
	// notedFrom is the size from which a growing blob is worth being resumed after a
	// restart: what is smaller is soon fetched again.
	notedFrom = 4 * BlockSize
	// maxNotes bounds what is read of a file of notes: a bit for each block of
	// a blob of 8 TiB.
	maxNotes = 1 << 20
	// notesSuffix makes the name of a growing file that of its notes.
	notesSuffix = ".part"
)

// partial is the blocks of a download that ended early. Its bytes count as growing
// ones, and are the first to go when room is wanted.
type partial struct {
	account account
	tmp     string
	size    int64
	have    int64
	filled  map[int64]int64
	since   time.Time
}

type blobKey struct {
	origin string
	digest oci.Digest
}

// partialKey is a blob, and by which repository alone the bytes of its beginning have come;
// empty: by any.
type partialKey struct {
	blobKey

	repo string
}

// Park ends the blob and keeps its blocks for the download that wants it next
// (Resume): for a day, also over a restart, unless their room is needed. What is
// wrong, or too small to be worth it, is dropped. Fail must follow: the caller may
// have more to give back before the readers learn of the end.
func (b *Blocks) Park() {
	b.Stop(ErrDiscarded)
	b.writing.Lock()
	defer b.writing.Unlock()
	if !b.end() {
		return
	}
	p := b.partial()
	if p == nil {
		b.drop()
		return
	}
	_ = b.file.Close() // what could not be written was not counted
	_ = b.notes.file.Close()
	b.uncharge()
	b.store.capacity.park(partialKey{blobKey{b.origin, b.digest}, b.repo}, p, b.reserved)
}

func (b *Blocks) partial() *partial {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.notes == nil || b.wrong || b.have < BlockSize {
		return nil
	}
	// A copy, since b's readers read on from what is there while the next one fills it.
	return &partial{account: b.account, tmp: b.tmp, size: b.size, have: b.have, filled: maps.Clone(b.filled), since: time.Now()}
}

// Resume goes on with the partial of a blob, of which all has come by the repository repo
// (Account.Repo). It is not verified, and says nothing about who may have it. ok is false
// where there is none, or no room for the rest.
func (s *Store) Resume(origin, repo string, d oci.Digest) (b *Blocks, ok bool) {
	c, key := s.capacity, partialKey{blobKey{origin, d}, repo}
	p := c.takePartial(key)
	if p == nil {
		return nil, false
	}
	if b, err := s.resume(key, p); err == nil {
		return b, true
	} else if descriptor.Exhausted(err) { // it stays for the next one
		c.park(key, p, p.have)
	} else {
		s.o.Log.Debug("what was left of a download is of no use", "digest", d, "err", err)
		c.discard(p)
	}
	return nil, false
}

func (s *Store) resume(key partialKey, p *partial) (*Blocks, error) {
	if time.Since(p.since) > partialLife {
		return nil, errors.New("it is too old")
	}
	if err := s.capacity.reserve(p.account, p.size-p.have, p.size); err != nil {
		return nil, err
	}
	f, n, err := s.disk.openPartial(p)
	if err != nil {
		s.capacity.uncharge(p.account, p.size)
		s.capacity.giveBack(p.size-p.have, 0)
		return nil, err
	}
	b := s.newBlocks(p.account, key, f, p.size)
	b.reserved, b.charged, b.notes, b.filled, b.have = p.size, p.size, n, p.filled, p.have
	return b, nil
}

// openPartial opens the two files of a partial.
func (d *disk) openPartial(p *partial) (f *os.File, n *notes, err error) {
	if f, err = d.openFile(p.tmp, os.O_RDWR); err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != p.size) {
		err = fmt.Errorf("%s is not what it was", p.tmp)
	}
	if err == nil {
		n, err = d.openNotes(p.tmp + notesSuffix)
	}
	if err == nil && n.Size != p.size {
		err = errors.Join(errBadNotes, n.file.Close())
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, nil, err
	}
	return f, n, nil
}

// restorePartials takes in the partials that the process before this one has left,
// and deletes everything else in tmp.
func (s *Store) restorePartials() error {
	entries, err := s.disk.readDir(s.tmp())
	if err != nil {
		return err
	}
	stays := map[string]bool{}
	for _, e := range entries {
		tmp, ok := strings.CutSuffix(e.Name(), notesSuffix)
		if ok && e.Type().IsRegular() && s.restore(filepath.Join(s.tmp(), tmp)) {
			stays[e.Name()], stays[tmp] = true, true
		}
	}
	for _, e := range entries {
		if stays[e.Name()] {
			continue
		}
		if err := s.disk.removeAll(filepath.Join(s.tmp(), e.Name())); err != nil {
			s.o.Log.Warn("what another process left in tmp stays", "err", err)
		}
	}
	return nil
}

// restore takes in the partial at tmp, if its notes are good and of this boot.
func (s *Store) restore(tmp string) bool {
	n, err := s.disk.openNotes(tmp + notesSuffix)
	if err != nil {
		return false
	}
	_ = n.file.Close() // only read from
	info, err := os.Lstat(tmp)
	if err != nil || !info.Mode().IsRegular() || info.Size() != n.Size || n.Boot == "" || n.Boot != s.o.Boot {
		return false
	}
	// Each block that comes moves the file's time.
	p := &partial{account: account{n.Owner, n.Own}, tmp: tmp, size: n.Size, since: info.ModTime()}
	p.filled, p.have = filledBy(n.bits, n.Size)
	c, key := s.capacity, partialKey{blobKey{n.Origin, n.Digest}, n.Repo}
	if c.partials[key] != nil || p.have == 0 || time.Since(p.since) > partialLife {
		return false
	}
	c.partials[key] = p // nobody else has the store yet
	c.growing += p.have
	return true
}

// park keeps p's bytes reserved and releases the rest of what was reserved for the
// whole.
func (c *capacity) park(key partialKey, p *partial, reserved int64) {
	c.mu.Lock()
	c.growing -= reserved - p.have
	c.unwritten -= reserved - p.have
	old := c.partials[key]
	c.partials[key] = p
	c.mu.Unlock()
	if old != nil {
		c.discard(old)
	}
}

// takePartial takes a partial out. Nil: there is none.
func (c *capacity) takePartial(key partialKey) *partial {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.partials[key]
	delete(c.partials, key)
	return p
}

// discard deletes a partial that was taken out.
func (c *capacity) discard(p *partial) {
	_ = c.disk.remove(p.tmp) // best effort: it goes at the next start
	_ = c.disk.remove(p.tmp + notesSuffix)
	c.giveBack(p.have, p.have)
}

// dropPartial discards the partial of a blob that is fetched from the start.
func (c *capacity) dropPartial(key partialKey) {
	if p := c.takePartial(key); p != nil {
		c.discard(p)
	}
}

// dropPartialsOf discards what has come of a blob that is whole, by whatever repository.
func (c *capacity) dropPartialsOf(blob blobKey) {
	var all []*partial
	c.mu.Lock()
	for key, p := range c.partials {
		if key.blobKey == blob {
			delete(c.partials, key)
			all = append(all, p)
		}
	}
	c.mu.Unlock()
	for _, p := range all {
		c.discard(p)
	}
}

// dropOldest discards a partial that is older than age; of those, the oldest of the
// owner whose partials have the most bytes.
func (c *capacity) dropOldest(age time.Duration) bool {
	c.mu.Lock()
	sums := c.partialBytesOf()
	var oldest partialKey
	var p *partial
	for key, other := range c.partials {
		if time.Since(other.since) < age {
			continue
		}
		if p == nil || cmp.Or(cmp.Compare(sums[other.account.owner], sums[p.account.owner]), p.since.Compare(other.since)) > 0 {
			oldest, p = key, other
		}
	}
	delete(c.partials, oldest)
	c.mu.Unlock()
	if p != nil {
		c.discard(p)
	}
	return p != nil
}

// partialBytes is how many bytes would be free if no partial were kept. Caller
// holds mu.
func (c *capacity) partialBytes() (sum int64) {
	for _, p := range c.partials {
		sum += p.have
	}
	return sum
}

// partialBytesOf is the same by owner. Caller holds mu.
func (c *capacity) partialBytesOf() map[owner]int64 {
	sums := map[owner]int64{}
	for _, p := range c.partials {
		sums[p.account.owner] += p.have
	}
	return sums
}

// notes say on the disk which blocks of a growing blob are there, for the
// process that comes after this one: a line that says what it is, and a bit for
// each block, set after the block was written. Nothing is synced. What one
// process wrote the next one finds, however the first one ended, as long as the
// kernel lives; so the notes carry the kernel's boot id.
type notes struct {
	noted
	file *os.File
	head int64 // where the bits begin
	bits []byte
}

// noted is the line of notes.
type noted struct {
	Boot   string     `json:"boot"`
	Origin string     `json:"origin"`
	Digest oci.Digest `json:"digest"`
	Size   int64      `json:"size"`
	Owner  owner      `json:"owner,omitempty"`
	Own    bool       `json:"own,omitempty"`
	Repo   string     `json:"repo,omitempty"`
}

// bootID is that of the kernel; empty where it does not say: then nothing that
// another process left is used.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// blocksOf is how many blocks a blob of size has.
func blocksOf(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// newNotes begins the notes of the growing file tmp. An error costs what a
// restart then fetches again, and nothing else.
func (d *disk) newNotes(tmp string, n noted) (*notes, error) {
	line, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("taking notes: %w", err)
	}
	f, err := d.openFile(tmp+notesSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("taking notes: %w", err)
	}
	line = append(line, '\n')
	all := &notes{noted: n, file: f, head: int64(len(line)), bits: make([]byte, (blocksOf(n.Size)+7)/8)}
	if _, err := d.writeAt(f, append(line, all.bits...), 0); err != nil {
		all.drop(d)
		return nil, fmt.Errorf("taking notes: %w", err)
	}
	return all, nil
}

// set notes that block is there.
func (n *notes) set(d *disk, block int64) error {
	n.bits[block/8] |= 1 << (block % 8)
	_, err := d.writeAt(n.file, n.bits[block/8:block/8+1], n.head+block/8)
	return err
}

// drop deletes the notes.
func (n *notes) drop(d *disk) {
	_ = n.file.Close()
	_ = d.remove(n.file.Name()) // best effort: without their file they go at the next start
}

// openNotes opens and reads the notes of an earlier download.
func (d *disk) openNotes(path string) (*notes, error) {
	f, err := d.openFile(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	data := make([]byte, maxNotes+1)
	size, err := d.readAt(f, data, 0)
	n := &notes{file: f}
	if err == nil || errors.Is(err, io.EOF) {
		n.noted, n.bits, err = parseNotes(data[:size])
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	n.head, n.bits = int64(size-len(n.bits)), bytes.Clone(n.bits) // data is much longer
	return n, nil
}

var errBadNotes = errors.New("these are no notes of a download")

// parseNotes reads the line and the bits, and takes nothing for granted: the
// process that wrote them may have died on the way.
func parseNotes(data []byte) (n noted, bits []byte, err error) {
	line, bits, ok := bytes.Cut(data, []byte("\n"))
	if !ok || json.Unmarshal(line, &n) != nil {
		return noted{}, nil, errBadNotes
	}
	if _, err := oci.ParseDigest(n.Digest.String()); err != nil {
		return noted{}, nil, errBadNotes
	}
	safe := n.Origin != "" && n.Origin != "." && n.Origin != ".." && !strings.ContainsAny(n.Origin, "/\x00")
	if !safe || n.Size < notedFrom || n.Size > largestBlob || int64(len(bits)) != (blocksOf(n.Size)+7)/8 {
		return noted{}, nil, errBadNotes
	}
	return n, bits, nil
}

// filledBy is how many bytes of each block are there, by the bits, and of all.
func filledBy(bits []byte, size int64) (filled map[int64]int64, have int64) {
	filled = map[int64]int64{}
	for block := range blocksOf(size) {
		if bits[block/8]&(1<<(block%8)) != 0 {
			n := min(BlockSize, size-block*BlockSize)
			filled[block] = n
			have += n
		}
	}
	return filled, have
}
