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
// result shares. The user is "organisation" or "organisation+account". Of what is too
// long for ours it reads the beginning, and says false.
func parseBasic(header string, buf *[maxBasic]byte) (basic, bool) {
	const scheme = "Basic "
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return basic{}, false
	}
	encoded := header[len(scheme):]
	short := base64.StdEncoding.DecodedLen(len(encoded)) <= len(buf)
	if !short {
		encoded = encoded[:len(buf)] // whole groups of four
	}
	n, err := base64.StdEncoding.Decode(buf[:], []byte(encoded))
	if err != nil {
		return basic{}, false
	}
	b, ok := cutLogin(buf[:n])
	return b, ok && short
}

// cutLogin reads organisation[+account]:token.
func cutLogin(text []byte) (basic, bool) {
	user, password, ok := bytes.Cut(text, []byte{':'})
	if !ok {
		return basic{}, false
	}
	organisation, account, _ := bytes.Cut(user, []byte{'+'})
	return basic{organisation: organisation, account: account, password: password}, true
}

// registryUsers and registryPasswords are how logins at registries begin that no
// organisation and no token of this node can be taken for.
var (
	registryUsers = []string{"_json_key", "oauth2accesstoken", "_dcgcr", "_token", "<token>", "$oauthtoken", "robot$", "AWS", "00000000-0000-0000-0000-000000000000"}
	// Of GitHub, GitLab, Docker Hub, DigitalOcean; a JSON document in base64 (ECR, ACR
	// and other JWTs), or as it is (Google's keys).
	registryPasswords = []string{"ghp_", "gho_", "ghu_", "ghs_", "github_pat_", "glpat-", "gldt-", "dckr_pat_", "dckr_oat_", "dop_v1_", "doo_v1_", "eyJ", "{"}
)

// foreign says that b is a login at some registry: a pull secret that containerd hands
// to whoever asks for a login, or a docker login with the wrong password. It does not
// look at which organisations there are, and so tells nothing of them.
func (b *basic) foreign() bool {
	begins := func(text []byte, with []string) bool {
		for _, w := range with {
			if len(text) >= len(w) && string(text[:len(w)]) == w {
				return true
			}
		}
		return false
	}
	return begins(b.organisation, registryUsers) || begins(b.password, registryPasswords) || bytes.ContainsAny(b.organisation, "@$")
}
