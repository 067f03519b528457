package oci

import (
	_ "crypto/sha256" // the two algorithms that ParseDigest lets in
	_ "crypto/sha512"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Digest names immutable content: "sha256:<64 hex>" or "sha512:<128 hex>", in
// lower case. Only ParseDigest and hashing make one, so a Digest is always
// safe to use in a file name.
type Digest = digest.Digest

// ParseDigest checks s. Algorithms other than sha256 and sha512 and upper-case
// hex are refused: one content must have one name, or one proof would not
// cover the other.
func ParseDigest(s string) (Digest, error) {
	if isSHA256(s) {
		return Digest(s), nil
	}
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("digest %.150q: %w", s, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", fmt.Errorf("digest %.150q: only sha256 and sha512 are supported", s)
	}
	return d, nil
}

// isSHA256 knows what nearly all digests look like. The library asks a regular
// expression, which takes longer than everything else about a request's name.
func isSHA256(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// DigestOf is the sha256 digest of b.
func DigestOf(b []byte) Digest { return digest.SHA256.FromBytes(b) }
