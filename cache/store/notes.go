package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"berth/oci"
)

const (
	// notedFrom is the size from which a growing blob is worth being gone on
	// with after a restart: what is smaller is soon fetched again.
	notedFrom = 4 * BlockSize
	// maxNotes bounds what is read of a file of notes: a bit for each block of
	// a blob of 8 TiB.
	maxNotes = 1 << 20
	// notesSuffix makes the name of a growing file that of its notes.
	notesSuffix = ".part"
)

// notes say on the disk which blocks of a growing blob are there, for the
// process that comes after this one: a line that says what it is, and a bit for
// each block, set after the block was written. Nothing is synced. What one
// process wrote the next one finds, however the first one ended, as long as the
// kernel lives; so the notes carry the kernel's boot id.
type notes struct {
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
	bits := make([]byte, (blocksOf(n.Size)+7)/8)
	if _, err := d.writeAt(f, append(line, bits...), 0); err != nil {
		_ = f.Close() // the first error counts
		_ = d.remove(f.Name())
		return nil, fmt.Errorf("taking notes: %w", err)
	}
	return &notes{file: f, head: int64(len(line)), bits: bits}, nil
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

// readNotes reads what another process noted.
func (d *disk) readNotes(path string) (noted, []byte, error) {
	f, err := d.openFile(path, os.O_RDONLY)
	if err != nil {
		return noted{}, nil, err
	}
	var data []byte
	err = d.do(OpRead, path, func() (err error) {
		data, err = io.ReadAll(io.LimitReader(f, maxNotes+1))
		return err
	})
	if err = errors.Join(err, f.Close()); err != nil {
		return noted{}, nil, err
	}
	return parseNotes(data)
}

var errBadNotes = errors.New("these are no notes of a download")

// parseNotes reads the line and the bits, and takes nothing for granted: who
// wrote them may have died on the way.
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
