package caller

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"berth/internal/secret"
)

// tokenPrefix makes a token recognisable to scanners for leaked secrets.
const tokenPrefix = "berth_"

// NewToken makes a token for callers: at least 128 random bits, letters and
// digits only, so that it needs no quoting anywhere.
func NewToken() secret.Text { return secret.New(tokenPrefix + rand.Text()) }

// HashToken is what a configuration keeps of a token: SHA-256 in lower-case hex.
// It is not salted or slow, since NewToken's tokens cannot be guessed.
func HashToken(token secret.Text) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return hex.EncodeToString(sum[:])
}

// CheckHash refuses what cannot be the hash of a good token: malformed hex, and
// the hashes of what people try first.
func CheckHash(organisation, hash string) error {
	_, err := parseHash(organisation, hash)
	return err
}

func parseHash(organisation, hash string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != sha256.Size {
		// The text may be a token that was pasted in place of its hash.
		return sum, fmt.Errorf("the sha256 of a token is %d hex digits", 2*sha256.Size)
	}
	sum = [sha256.Size]byte(b)
	for _, bad := range []struct{ token, is string }{
		{"", "of nothing"}, {"\n", "of an empty line"}, {"test", `of "test"`}, {"password", `of "password"`},
		{organisation, "of the organisation's own name"},
		{"test\n", `of "test"`}, {"password\n", `of "password"`}, {organisation + "\n", "of the organisation's own name"},
	} {
		if sum == sha256.Sum256([]byte(bad.token)) {
			return sum, fmt.Errorf("this is the sha256 %s: make a token with the token command", bad.is)
		}
	}
	return sum, nil
}
