package upstream

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
)

// encoding is the Content-Encoding of an answer; empty for none. We only accept
// identity, but registry.access.redhat.com and Quay have compressed small
// documents all the same.
func encoding(h http.Header) string {
	e := strings.ToLower(strings.TrimSpace(h.Get("Content-Encoding")))
	if e == "identity" {
		return ""
	}
	return e
}

// decode undoes gzip, up to limit bytes. ok is false where data is not gzip, or
// is larger than that when it is undone.
func decode(data []byte, limit int64) (plain []byte, ok bool) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, false
	}
	plain, err = io.ReadAll(io.LimitReader(z, limit+1))
	return plain, err == nil && int64(len(plain)) <= limit
}

// versions are what a small answer may mean: as it came, since some storages
// call a compressed layer's own compression a Content-Encoding, and decoded.
// The digest tells which.
func versions(h http.Header, data []byte) [][]byte {
	if e := encoding(h); e == "gzip" || e == "x-gzip" {
		if plain, ok := decode(data, maxSmall); ok {
			return [][]byte{plain, data}
		}
	}
	return [][]byte{data}
}
