package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"berth/internal/fileid"
)

// glance is what can be seen of a file without reading it, to tell whether it
// has to be read again.
type glance struct {
	id fileid.ID // zero: there is none, or it cannot be seen
	// settled says that a change after this glance would show in the next one.
	settled bool
}

// glanceAt follows links, since deployments swap them.
func glanceAt(path string, now time.Time) glance {
	info, err := os.Stat(path)
	if err != nil {
		return glance{settled: true}
	}
	id := fileid.Of(info)
	return glance{id, id.Settled(now)}
}

// same says that nothing has changed since before.
func (g glance) same(before glance) bool {
	was := before.settled
	before.settled = g.settled
	return was && g == before
}

// justChanged says that the file may be in the middle of a change. A change that has
// yet to come is another machine's clock, which says nothing.
func (g glance) justChanged(now time.Time) bool {
	age := now.Sub(g.id.Changed())
	return age >= 0 && age < quietFor
}

// maxHashed is larger than any configuration file may be.
const maxHashed = 8 << 20

// hashFile is the SHA-256 of a file in hex; empty if it cannot be read.
func hashFile(path string) string {
	content, err := readBounded(path, maxHashed)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// readBounded reads a regular file of at most limit bytes. It never waits:
// opening a pipe that nobody writes to would block for ever.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is no regular file")}
	}
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has more than %d bytes", limit)}
	}
	return content, nil
}
