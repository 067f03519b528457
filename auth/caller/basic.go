package caller

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// maxBasic bounds the base64 of Basic credentials: names have at most 255
// bytes, tokens a few dozen.
const maxBasic = 1024

// basic are Basic credentials, cut up in place.
type basic struct {
	organisation, account, password []byte
}

// parseBasic reads an Authorization header (RFC 7617) into buf, which the
// result shares. The user is "organisation" or "organisation+account".
func parseBasic(header string, buf *[maxBasic]byte) (basic, bool) {
	const scheme = "Basic "
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return basic{}, false
	}
	encoded := header[len(scheme):]
	if base64.StdEncoding.DecodedLen(len(encoded)) > len(buf) {
		return basic{}, false
	}
	n, err := base64.StdEncoding.Decode(buf[:], []byte(encoded))
	if err != nil {
		return basic{}, false
	}
	user, password, ok := bytes.Cut(buf[:n], []byte{':'})
	if !ok {
		return basic{}, false
	}
	organisation, account, _ := bytes.Cut(user, []byte{'+'})
	return basic{organisation: organisation, account: account, password: password}, true
}
