package node

import (
	"crypto/sha256"
	"encoding/hex"

	"berth/internal/fileid"
	"berth/internal/hung"
)

// maxHashed is larger than any configuration file may be.
const maxHashed = 8 << 20

// hashFile is the SHA-256 of a file in hex; empty if it cannot be read.
func (n *node) hashFile(path string) string {
	content, err := n.readFile(path, maxHashed)
	if err != nil {
		return ""
	}
	return hashOf(content)
}

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// readFile reads a regular file of at most limit bytes, and does not wait for one that
// hangs.
func (n *node) readFile(path string, limit int64) ([]byte, error) {
	return hung.Do(n.hung, hung.Limit, path, func() ([]byte, error) { return readBounded(path, limit) })
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	content, _, err := fileid.Read(path, limit)
	return content, err
}
