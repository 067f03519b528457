package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Origin is where a registry is really reached. It is the identity behind
// every cached fact and byte: two names with one origin share, two origins
// never do. TLS trust and mirrors are not part of it.
type Origin struct {
	// Owner is the organisation that brought the registry, empty for the
	// platform's own.
	Owner  string
	Scheme string // https or http
	// Host and port as in a URL; the scheme's default port is left out.
	Host string
}

// URL is scheme and host, without a slash at the end.
func (o Origin) URL() string { return o.Scheme + "://" + o.Host }

// Dir is a file name for the origin: readable, and unique by a hash of its
// whole identity. 128 bits of it, since organisations may choose their names:
// fewer could be searched for a second origin with the same folder.
func (o Origin) Dir() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", o.Owner, o.Scheme, o.Host))
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, o.Host)
	if len(readable) > 100 {
		readable = readable[:100]
	}
	return readable + "-" + hex.EncodeToString(sum[:16])
}
