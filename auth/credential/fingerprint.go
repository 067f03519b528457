package credential

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"

	"berth/oci"

	"berth/internal/secret"
)

// fingerprintSize is how much of the HMAC is kept: 128 bits, since nobody can
// choose inputs to make two collide and then profit from it.
const fingerprintSize = 16

// Fingerprint stands for a credential in cache facts, token keys and logs: an
// HMAC over the origin, the user name and the secret. It cannot be reversed by
// trying passwords without the Key, and any change of secret is a new
// fingerprint. It is hex, 32 characters.
func (k Key) Fingerprint(origin oci.Origin, username string, secret secret.Text) string {
	return k.fingerprint("login", origin, username, secret.Reveal())
}

// entryFingerprint stands for a credential whose secret changes all the time
// (those of helpers): the HMAC is over what the configuration says instead, and the
// user name, since another user has other rights.
func (k Key) entryFingerprint(origin oci.Origin, username, entry string) string {
	return k.fingerprint("entry", origin, username, entry)
}

// Number stands for an organisation where there is room for a number only. Without the
// Key nobody can choose a name that has the number of another one.
func (k Key) Number(organisation string) uint64 {
	mac := hmac.New(sha256.New, []byte(k.bytes.Reveal()))
	writeField(mac, "organisation")
	writeField(mac, organisation)
	return binary.BigEndian.Uint64(mac.Sum(nil))
}

func (k Key) fingerprint(kind string, origin oci.Origin, fields ...string) string {
	mac := hmac.New(sha256.New, []byte(k.bytes.Reveal()))
	for _, f := range append([]string{kind, origin.Owner, origin.Scheme, origin.Host}, fields...) {
		writeField(mac, f)
	}
	return hex.EncodeToString(mac.Sum(nil)[:fingerprintSize])
}

// writeField puts the length first, so that no two lists of fields are one
// string of bytes.
func writeField(h hash.Hash, field string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(field)))
	_, _ = h.Write(n[:]) // a hash never fails
	_, _ = io.WriteString(h, field)
}
