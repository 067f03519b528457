package upstream

import (
	"net/url"
	"strings"
)

const maxNext = 4096

// nextQuery finds the query of the next page in Link headers (RFC 8288, as the
// distribution specification uses it). Only the query is taken, and only when
// the link is for the path of from: behind gateways registries often know their
// own host wrongly, and a link must not lead anywhere else.
func nextQuery(links []string, from *url.URL) string {
	for _, header := range links {
		for header != "" {
			target, params, rest := cutLink(header)
			header = rest
			if !isNext(params) {
				continue
			}
			u, err := from.Parse(target)
			if err == nil && u.Path == from.Path && u.RawQuery != "" && len(u.RawQuery) <= maxNext && u.RawQuery != from.RawQuery {
				return u.RawQuery
			}
		}
	}
	return ""
}

// cutLink takes the first link off a header: "<target>; params, rest". A comma
// inside the angle brackets or inside quotes belongs to the link.
func cutLink(s string) (target, params, rest string) {
	_, s, ok := strings.Cut(s, "<")
	if !ok {
		return "", "", ""
	}
	target, s, ok = strings.Cut(s, ">")
	if !ok {
		return "", "", ""
	}
	params, rest = cutUnquoted(s, ',')
	return target, params, rest
}

func isNext(params string) bool {
	for params != "" {
		var p string
		p, params = cutUnquoted(params, ';')
		name, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "rel") {
			continue
		}
		for rel := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(rel, "next") {
				return true
			}
		}
	}
	return false
}

// cutUnquoted cuts s at the first separator outside of quotes.
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
