package classify

import (
	"encoding/base64"
	"net/url"
	"strings"

	"berth/oci"

	"berth/auth/credential"
)

const (
	maxForeign = 200 // bytes of a registry's own text that are kept, for the log
	// longWord is from how many bytes on a word could be a token or a signature.
	// Repository names and plain words are shorter, or have slashes.
	longWord = 32
)

// scrub makes a registry's text fit for the log. A registry may say back what
// it was sent, so the credential is cut out in every form in which it goes over
// the wire, queries of URLs go (they carry signatures), and so does every word
// that is long enough to be a token.
func scrub(s string, cred *credential.Credential) string {
	if len(s) > 4*maxForeign {
		s = strings.ToValidUTF8(s[:4*maxForeign], "")
		// The cut may have left a piece of a secret that is no longer the secret.
		if i := strings.LastIndexAny(s, " \t\n"); i >= 0 {
			s = s[:i]
		} else {
			s = ""
		}
	}
	for _, secret := range wireForms(cred) {
		s = strings.ReplaceAll(s, secret, "[secret]")
	}
	words := strings.Fields(s)
	for i, w := range words {
		words[i] = scrubWord(w)
	}
	return oci.OneLine(strings.Join(words, " "), maxForeign)
}

func scrubWord(w string) string {
	if before, _, ok := strings.Cut(w, "?"); ok && strings.Contains(before, "/") {
		w = before + "?..."
	}
	run := 0
	for i := range len(w) {
		if c := w[i]; c == '/' || c == ':' || c == ',' || c == '"' {
			run = 0
			continue
		}
		if run++; run >= longWord {
			return "[...]"
		}
	}
	return w
}

// wireForms are the texts that betray cred: what is sent, before the parts of it.
func wireForms(cred *credential.Credential) []string {
	if cred == nil || cred.Password.Empty() {
		return nil
	}
	user, password := cred.UserAndPassword()
	pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	forms := []string{pair, strings.TrimRight(pair, "=")}
	for _, s := range []string{password, user} {
		if len(s) < 4 && s != password {
			continue // AWS and the like: no secret, and part of many words
		}
		forms = append(forms,
			base64.StdEncoding.EncodeToString([]byte(s)), base64.RawStdEncoding.EncodeToString([]byte(s)),
			url.QueryEscape(s), url.PathEscape(s), s)
	}
	return forms
}
