package auth

import "net/http"

// Said is what a registry says in the body of an answer that is no success, cleaned
// and short enough to be shown; empty for nothing, and for a web page.
func Said(header http.Header, body []byte, cred *Credential) string {
	return scrub(readForeign(header, body).message, cred)
}
