package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"berth/internal/secret"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// Key is a fleet key: the fleet's own, or an organisation's. The zero Key is none.
type Key struct{ secret.Text }

// NewKey is the key of these bytes.
func NewKey(b [KeySize]byte) Key { return Key{secret.New(string(b[:]))} }

// ParseKeys reads a key file: one key or two, a line each, in hex or base64. Objects
// are written under the first, and read under both. No error repeats what the file
// holds.
func ParseKeys(file []byte) ([]Key, error) {
	var keys []Key
	for line := range bytes.Lines(file) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if len(keys) == 2 {
			return nil, errors.New("a key file holds two keys at most: the first writes, the second is read until what lies under it has expired")
		}
		k, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", len(keys)+1, err)
		}
		if len(keys) == 1 && keys[0].Equal(k.Text) {
			return nil, errors.New("both keys are the same")
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it: make one with: openssl rand -hex 32")
	}
	return keys, nil
}

func parseKey(line []byte) (Key, error) {
	var k [KeySize]byte
	var err error
	switch len(line) {
	case hex.EncodedLen(KeySize):
		_, err = hex.Decode(k[:], line)
	case base64.StdEncoding.EncodedLen(KeySize):
		var n int
		padded := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
		n, err = base64.StdEncoding.Strict().Decode(padded, line)
		if n != KeySize {
			err = errors.Join(err, base64.CorruptInputError(0))
		}
		copy(k[:], padded)
	default:
		err = errors.New("wrong length")
	}
	if err != nil {
		// The decoders' errors quote bytes of the key.
		return Key{}, errors.New("not 32 bytes in hex or base64: make one with: openssl rand -hex 32")
	}
	if bytes.Count(k[:], k[:1]) == KeySize {
		return Key{}, errors.New("one byte repeated is no key: make one with: openssl rand -hex 32")
	}
	return NewKey(k), nil
}

// FingerprintSize is the length of a fingerprint.
const FingerprintSize = 8

// Fingerprint is 8 hex digits by which people compare the keys of two nodes.
func (k Key) Fingerprint() string {
	if k.Empty() {
		return ""
	}
	return hex.EncodeToString(derive(k.Reveal(), salt, "fingerprint", FingerprintSize/2))
}

// salt is that of what is derived from a key file's keys.
const salt = "berth fleet 1"

// derive is HKDF over SHA-256.
func derive(key, salt, info string, length int) []byte {
	out, err := hkdf.Key(sha256.New, []byte(key), []byte(salt), info, length)
	if err != nil { // a length above 255 hashes: ours are constants
		panic(fmt.Sprintf("deriving a key: %v", err))
	}
	return out
}
