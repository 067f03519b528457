package token

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"berth/oci"
)

// offers are the challenges of an answer, one by one, whether they came in a header
// each or several in one (RFC 9110, 11.6.1): a new one begins where a word is followed
// by a space and a parameter, or by nothing, and not by an equals sign.
func offers(header http.Header) []string {
	var all []string
	for _, line := range header.Values("Www-Authenticate") {
		begun := len(all)
		for line != "" {
			var item string
			item, line = cutItem(line)
			switch {
			case item == "":
			case len(all) > begun && isParameter(item):
				all[len(all)-1] += "," + item
			default:
				all = append(all, item)
			}
		}
	}
	return all
}

// cutItem cuts s at the first comma outside of quotes.
func cutItem(s string) (item, rest string) {
	quoted, escaped := false, false
	for i := range len(s) {
		switch {
		case escaped:
			escaped = false
		case quoted && s[i] == '\\':
			escaped = true
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return strings.TrimSpace(s[:i]), s[i+1:]
		}
	}
	return strings.TrimSpace(s), ""
}

// isParameter says whether an item goes on with the challenge before it: name=value.
func isParameter(item string) bool {
	end := strings.IndexAny(item, " \t=\"")
	return end > 0 && strings.HasPrefix(strings.TrimLeft(item[end:], " \t"), "=")
}

// read is the one challenge of a 401 that counts: a token from an endpoint that may be
// asked, or else Basic. Where neither is offered, it is what came, for the message.
func read(header http.Header, mayAsk func(realm string) bool) Challenge {
	var all []Challenge
	for _, offer := range offers(header) {
		c := parse(offer)
		if c.Scheme == schemeBearer && mayAsk(c.Realm) {
			return c
		}
		all = append(all, c)
	}
	for _, scheme := range [...]string{schemeBasic, schemeBearer} {
		if i := slices.IndexFunc(all, func(c Challenge) bool { return c.Scheme == scheme }); i >= 0 {
			return all[i]
		}
	}
	if len(all) == 0 { // Harbor and GCR send an empty challenge at times
		return Challenge{Scheme: schemeUnknown}
	}
	return all[0]
}

func parse(offer string) Challenge {
	scheme, parameters := offer, ""
	if end := strings.IndexAny(offer, " \t"); end >= 0 {
		scheme, parameters = offer[:end], offer[end:]
	}
	c := Challenge{Scheme: cmp.Or(strings.ToLower(oci.OneLine(scheme, 40)), schemeUnknown)}
	realm, service := parameter(parameters, "realm"), parameter(parameters, "service")
	if len(service) > maxService {
		c.Scheme, service = schemeLong, ""
	}
	// It is kept, and the header that it is a piece of need not be. Realms says that one
	// is too long.
	c.Scheme, c.Realm, c.Service = strings.Clone(c.Scheme), strings.Clone(realm[:min(len(realm), maxRealm+1)]), strings.Clone(service)
	return c
}

// maxService bounds the service of a challenge, in bytes. Most are the name of a host.
const maxService = 256

// parameter is the value of a parameter of a challenge.
func parameter(parameters, name string) string {
	for parameters != "" {
		var item string
		item, parameters = cutItem(parameters)
		key, value, _ := strings.Cut(item, "=")
		if strings.EqualFold(strings.TrimSpace(key), name) {
			return unquoted(strings.TrimSpace(value))
		}
	}
	return ""
}

// unquoted is a token as it is, and a quoted string without quotes and escapes (RFC 9110,
// 5.6.4).
func unquoted(value string) string {
	inside, quoted := strings.CutPrefix(value, `"`)
	if !quoted {
		return value
	}
	var b strings.Builder
	for i := 0; i < len(inside) && inside[i] != '"'; i++ {
		if inside[i] == '\\' && i+1 < len(inside) {
			i++
		}
		b.WriteByte(inside[i])
	}
	return b.String()
}

// staysHere says whether a redirect from base leads to the same host.
func staysHere(base *url.URL, location string) bool {
	to, err := base.Parse(location)
	return err == nil && location != "" && SameOrigin(to, base)
}

// answersOtherwise says whether a status at /v2/ is one of a registry that asks for
// nothing there: of static files, or behind a gateway that lets only images through.
// What it wants is learned where it asks for it.
func answersOtherwise(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusNotAcceptable, http.StatusGone, http.StatusNotImplemented:
		return true
	}
	return status/100 == 2
}
