package node

import (
	"crypto/sha256"
	"encoding/hex"

	"berth/internal/fileid"
)

// maxHashed is larger than any configuration file may be.
const maxHashed = 8 << 20

// hashFile is the SHA-256 of a file in hex; empty if it cannot be read.
func hashFile(path string) string {
	content, _, err := fileid.Read(path, maxHashed)
	if err != nil {
		return ""
	}
	return hashOf(content)
}

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	content, _, err := fileid.Read(path, limit)
	return content, err
}
