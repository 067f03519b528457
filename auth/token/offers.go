package token

import (
	"net/http"
	"net/url"
	"strings"
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

// usable is the header with the one offer of an answer that can be served: a token
// from an endpoint that may be asked, or else Basic. Where there is none, it is what
// came, for the message.
func usable(header http.Header, mayAsk func(realm string) bool) http.Header {
	all := offers(header)
	basic := ""
	for _, offer := range all {
		switch scheme, rest, _ := strings.Cut(offer, " "); {
		case strings.EqualFold(scheme, schemeBearer) && mayAsk(parameter(rest, "realm")):
			return only(offer)
		case strings.EqualFold(scheme, schemeBasic) && basic == "":
			basic = offer
		}
	}
	for _, offer := range all {
		switch scheme, _, _ := strings.Cut(offer, " "); {
		case basic != "":
			return only(basic)
		case strings.EqualFold(scheme, schemeBearer):
			return only(offer) // its realm is named in the message
		}
	}
	return header
}

func only(offer string) http.Header { return http.Header{"Www-Authenticate": {offer}} }

// parameter is the value of a parameter of a challenge, without its quotes.
func parameter(parameters, name string) string {
	for parameters != "" {
		var item string
		item, parameters = cutItem(parameters)
		key, value, _ := strings.Cut(item, "=")
		if strings.EqualFold(strings.TrimSpace(key), name) {
			return strings.ReplaceAll(strings.Trim(strings.TrimSpace(value), `"`), `\`, "")
		}
	}
	return ""
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
