package token

import (
	"net/http"
	"strings"
)

// lastFor is how the origin wants to be authenticated to for repo, as last known: what it
// said there, if that was another challenge than at /v2/; nil: nothing is. One host may be
// a front for several registries, each with a token service of its own.
func (a *Client) lastFor(repo string) *Challenge {
	if c, ok := a.kept.challenges.Get(repoKey{a, repo}); ok {
		return &c
	}
	return a.probe.last()
}

// Challenged learns from a 401 to organisation, for repo, without Authorization:
// some registries answer 200 to /v2/ and ask for credentials only where they are
// needed. It counts for that repository alone, and only if its realm may be asked:
// whoever owns one repository of a registry that passes on others' answers could else
// have everybody's tokens asked for where he likes. It returns whether that was news,
// so that trying again can help.
func (a *Client) Challenged(header http.Header, organisation, repo string) (news bool) {
	c, ok := a.probe.overhear(header)
	if !ok {
		return false
	}
	if c.Scheme == schemeBearer {
		if _, err := a.exchange.realms.Check(c.Realm); err != nil {
			a.warnRealm(c, a.exchange.foreignRealm(err))
			return false
		}
	}
	if last := a.lastFor(repo); last != nil && *last == c {
		return false
	}
	a.kept.challenges.Add(a.owner(organisation), repoKey{a, strings.Clone(repo)}, c)
	return true
}

// Rechallenged learns from the challenge of a 401 to req, which Authorize had prepared
// for repo, and says whether authorising once more can help: where it asks for
// another token than the one that was sent, or for a token instead of Basic, from an
// endpoint that may be asked. A registry that answers Basic to a token only says no
// (Harbor does).
func (a *Client) Rechallenged(req *http.Request, header http.Header, organisation, repo string) (again bool) {
	scheme, _, ok := strings.Cut(req.Header.Get("Authorization"), " ")
	used := a.lastFor(repo)
	if !ok || used == nil || repo == "" {
		return false
	}
	c := read(header, a.exchange.realms.allows)
	if c.Scheme != schemeBearer || !a.exchange.realms.allows(c.Realm) || strings.EqualFold(scheme, schemeBearer) && c == *used {
		return false
	}
	a.kept.challenges.Add(a.owner(organisation), repoKey{a, strings.Clone(repo)}, c)
	return true
}
