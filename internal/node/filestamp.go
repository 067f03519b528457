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

// fileStamp is what can be seen of a file without reading it, to tell whether it
// has to be read again.
type fileStamp struct {
	id fileid.ID // zero: there is none, or it cannot be seen
	// settled says that a change after this one would show in the next one.
	settled bool
}

// stampOf follows links, since deployments swap them.
func stampOf(path string, now time.Time) fileStamp {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{settled: true}
	}
	id := fileid.Of(info)
	return fileStamp{id, id.Settled(now)}
}

// same says that nothing has changed since before.
func (s fileStamp) same(before fileStamp) bool {
	was := before.settled
	before.settled = s.settled
	return was && s == before
}

// justChanged says that the file may be in the middle of a change. A change that has
// yet to come is another machine's clock, which says nothing.
func (s fileStamp) justChanged(now time.Time) bool {
	age := now.Sub(s.id.Changed())
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
