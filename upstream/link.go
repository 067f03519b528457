package upstream

import (
	"errors"
	"net/url"
	"strings"
)

const maxNext = 4096

var (
	errLinkTarget = errors.New("it has no URL that can be read")
	errLinkQuery  = errors.New("its URL has no query that can be read")
	errLinkSame   = errors.New("it leads to the same page again")
)

// nextQuery finds the query of the next page in Link headers (RFC 8288, as the
// distribution specification uses it); empty at the end. Only the query is taken:
// behind gateways registries often know their own host and path wrongly, and a link
// must not lead anywhere else. A list that ends too early looks like one that is
// whole, so a link that is not understood is an error.
func nextQuery(links []string, from *url.URL) (string, error) {
	for _, header := range links {
		for strings.TrimSpace(header) != "" {
			target, params, rest := cutLink(header)
			header = rest
			if isNext(params) {
				return queryOf(target, from)
			}
		}
	}
	return "", nil
}

func queryOf(target string, from *url.URL) (string, error) {
	u, err := from.Parse(strings.TrimSpace(target))
	if err != nil || target == "" {
		return "", errLinkTarget
	}
	// net/url takes no bare semicolon, which is legal.
	if _, err := url.ParseQuery(strings.ReplaceAll(u.RawQuery, ";", "%3B")); err != nil || u.RawQuery == "" || len(u.RawQuery) > maxNext {
		return "", errLinkQuery
	}
	if u.RawQuery == from.RawQuery {
		return "", errLinkSame
	}
	return u.RawQuery, nil
}

// cutLink takes the first link off a header: "<target>; params, rest". A comma
// inside the angle brackets or inside quotes belongs to the link. Without the brackets
// the target ends at the first semicolon.
func cutLink(s string) (target, params, rest string) {
	s = strings.TrimLeft(s, " \t,")
	if bracketed, ok := strings.CutPrefix(s, "<"); ok {
		if target, s, ok = strings.Cut(bracketed, ">"); ok {
			params, rest = cutUnquoted(s, ',')
			return target, params, rest
		}
		s = bracketed
	}
	s, rest = cutUnquoted(s, ',')
	target, params, _ = strings.Cut(s, ";")
	if !strings.Contains(params, "=") && isNext(target) { // nothing but parameters
		return "", target, rest
	}
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
