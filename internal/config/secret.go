package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"berth/internal/secret"
)

// Secret is a password that stood in a file, as it was written there.
type Secret struct{ secret.Text }

// UnmarshalText keeps text, less one newline at its end, which a block scalar
// leaves there.
func (s *Secret) UnmarshalText(text []byte) error {
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	if len(text) == 0 {
		return errors.New("the password is empty: paste it, or name a password_file")
	}
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return errors.New("the password has a line break or another control character: paste it on one line")
		}
	}
	s.Text = secret.New(string(text))
	return nil
}

// Hash is the SHA-256 of a token. The zero Hash is none.
type Hash [sha256.Size]byte

// HashOf is the hash of a token.
func HashOf(token string) Hash { return sha256.Sum256([]byte(token)) }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(text []byte) error {
	// A token that was pasted here by mistake must not come back in the error.
	if len(text) != 2*sha256.Size {
		return errors.New("this is no SHA-256 of a token, which has 64 hexadecimal digits: paste what berth token printed")
	}
	if _, err := hex.Decode(h[:], text); err != nil {
		return errors.New("this is no SHA-256 of a token, which has hexadecimal digits only: paste what berth token printed")
	}
	return nil
}

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is String, for JSON.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// IsZero says that there is no hash.
func (h Hash) IsZero() bool { return h == Hash{} }
