package classify

import (
	"net/http"

	"berth/auth/credential"
)

// Shown is what a registry says in the body of an answer that is no success, cleaned
// and short enough to be shown; empty for nothing, and for a web page.
func Shown(header http.Header, body []byte, cred *credential.Credential) string {
	return scrub(Read(header, body).Message, cred)
}
