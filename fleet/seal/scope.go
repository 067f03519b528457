package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"berth/internal/secret"
	"berth/oci"
)

const (
	version   = 1
	nonceSize = 12
	// Before is how much of a sealed part comes before its bytes: the version and the nonce.
	Before = 1 + nonceSize
	// Overhead is by how much a sealed part is longer than its bytes: by what comes before
	// them, and the tag.
	Overhead = Before + 16
)

// ErrNotOpened says that a part was not sealed in this scope for this place, or was
// changed since.
var ErrNotOpened = errors.New("not a part that was sealed with this key for this place")

// Scope is whose bytes a shared object is: a principal's at one origin, or
// everybody's. Whoever lacks its key can neither read its objects nor ask whether
// one is there. The zero Scope is none.
type Scope struct {
	secret.Text // 32 bytes to name with, 32 to seal with
}

// Public is the scope of what registries show to everyone, under the fleet's key.
func Public(k Key) Scope { return newScope(k, "public") }

// Private is the scope of one account at one origin, under its organisation's key. A
// changed secret is another scope, as it is another principal. Accounts of a helper,
// whose secrets change all the time, have the configuration's entry as their secret.
func Private(k Key, origin, user, secret string) Scope {
	return newScope(k, "private"+enc(origin)+enc(user)+enc(secret))
}

func newScope(k Key, info string) Scope {
	if k.Empty() {
		return Scope{}
	}
	return Scope{secret.New(string(derive(k.Reveal(), salt, info, 64)))}
}

// enc puts its length before x, so that no two lists of texts are one.
func enc(x string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(x)))) + x
}

// ID stands for the scope where it has to be told from others on this node: in file
// names and as a key of tables. It says nothing about the key.
func (s Scope) ID() string {
	if s.Empty() {
		return ""
	}
	return s.hmac("scope")
}

// Name is the name of an object in this scope: 32 hex digits.
func (s Scope) Name(origin string, kind oci.Kind, digest oci.Digest) string {
	return s.hmac(enc(origin) + enc(kind.String()) + enc(digest.String()))
}

func (s Scope) hmac(text string) string {
	mac := hmac.New(sha256.New, []byte(s.Reveal()[:32]))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Writing is one attempt to write an object. It has a random name, so that nobody
// overwrites the parts of another attempt.
type Writing [16]byte

// NewWriting begins one.
func NewWriting() Writing {
	var w Writing
	_, _ = rand.Read(w[:]) // never fails
	return w
}

// ParseWriting reads what String wrote.
func ParseWriting(s string) (Writing, error) {
	var w Writing
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(w) {
		return w, errors.New("not the name of a writing: 32 hex digits")
	}
	copy(w[:], b)
	if w.String() != s { // upper case would be a second name for one writing
		return Writing{}, errors.New("not the name of a writing: 32 hex digits in lower case")
	}
	return w, nil
}

// String is 32 hex digits.
func (w Writing) String() string { return hex.EncodeToString(w[:]) }

// Seal appends to dst what goes into the bucket for part number part of an object of
// size bytes; in the place of plain, where that is dst's array from Before on. Sealing the
// same bytes twice gives two different texts.
func (s Scope) Seal(dst []byte, w Writing, name string, part int, size int64, plain []byte) []byte {
	dst = append(dst, version)
	begin := len(dst)
	dst = append(dst, make([]byte, nonceSize)...)
	random := dst[begin:]
	_, _ = rand.Read(random) // never fails
	return s.gcm(w).Seal(dst, random, plain, additional(w, name, part, size))
}

// Open appends to dst what was sealed; to sealed[Before:][:0], in the place of that. The bytes'
// number is not judged here: a caller who knows the object's size compares it with what
// Range says. The error is always ErrNotOpened, since a part's reader may be anybody.
func (s Scope) Open(dst []byte, w Writing, name string, part int, size int64, sealed []byte) ([]byte, error) {
	if s.Empty() || len(sealed) < Overhead || sealed[0] != version {
		return nil, ErrNotOpened
	}
	plain, err := s.gcm(w).Open(dst, sealed[1:Before], sealed[Before:], additional(w, name, part, size))
	if err != nil {
		return nil, ErrNotOpened
	}
	return plain, nil
}

// gcm has a key of its own for each writing, so that the number of random nonces
// under one key stays as small as the number of an object's parts.
func (s Scope) gcm(w Writing) cipher.AEAD {
	block, err := aes.NewCipher(derive(s.Reveal()[32:], "", "writing"+string(w[:]), 32))
	if err == nil {
		var gcm cipher.AEAD
		if gcm, err = cipher.NewGCM(block); err == nil {
			return gcm
		}
	}
	panic(fmt.Sprintf("a cipher for a key of 32 bytes: %v", err))
}

func additional(w Writing, name string, part int, size int64) []byte {
	b := append(make([]byte, 0, 64), version)
	b = append(b, name...)
	b = append(b, w[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(part))
	return binary.BigEndian.AppendUint64(b, uint64(size))
}
