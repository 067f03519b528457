package auth

import (
	"context"
	"net/http"
	"strings"
)

// keptChallenges bounds for how many repositories a challenge of their own is
// remembered. One that is forgotten costs a request.
const keptChallenges = 1024

// challengeFor is how the origin wants to be authenticated to for repo: what it said
// there, if that was another challenge than at /v2/. One host may be a front for
// several registries, each with a token service of its own.
func (a *Authority) challengeFor(ctx context.Context, repo string) (Challenge, error) {
	if c, ok := a.perRepo.Get(repo); ok {
		return c, nil
	}
	return a.probe.challenge(ctx)
}

// lastFor is that as last known; nil: nothing is.
func (a *Authority) lastFor(repo string) *Challenge {
	if c, ok := a.perRepo.Peek(repo); ok {
		return &c
	}
	return a.probe.last()
}

// Rechallenged learns from the challenge of a 401 to req, which Authorize had prepared
// for repo, and says whether authorising once more can help: where it asks for
// another token than the one that was sent, or for a token instead of Basic, from an
// endpoint that may be asked. A registry that answers Basic to a token only says no
// (Harbor does).
func (a *Authority) Rechallenged(req *http.Request, header http.Header, repo string) (again bool) {
	scheme, _, ok := strings.Cut(req.Header.Get("Authorization"), " ")
	used := a.lastFor(repo)
	if !ok || used == nil || repo == "" {
		return false
	}
	c, err := a.probe.ping(context.Background(), a.probe.replay(header))
	if err != nil || c.Scheme != schemeBearer {
		return false
	}
	if strings.EqualFold(scheme, schemeBearer) && c == *used {
		return false
	}
	if _, err := a.exchange.realms.Check(c.Realm); err != nil {
		return false
	}
	a.perRepo.Add(repo, c)
	return true
}
