package token

import (
	"cmp"

	"berth/internal/share"
)

// What is remembered at all registries together, in bytes: tokens are as long as the
// token endpoints like, and an organisation may bring a thousand registries. It is some
// thousands of the usual length.
const (
	keptTokens     = 8 << 20
	keptChallenges = 2 << 20
	// keptBeside is about what an entry needs beside its text.
	keptBeside = 256
)

// Kept is what the Clients of all registries remember of tokens and challenges, shared
// out by whose it is. One that is forgotten, the oldest of whoever has most, costs a
// request.
type Kept struct {
	tokens     *share.LRU[tokenKey, bearerToken]
	challenges *share.LRU[repoKey, Challenge]
}

// NewKept remembers nothing yet.
func NewKept() *Kept {
	return &Kept{
		tokens: share.New(keptTokens, func(k tokenKey, t bearerToken) int64 {
			return int64(keptBeside + len(t.text.Reveal()) + len(k.realm) + len(k.service) + len(k.repo))
		}),
		challenges: share.New(keptChallenges, func(k repoKey, c Challenge) int64 {
			return int64(keptBeside + len(k.repo) + len(c.Realm) + len(c.Service))
		}),
	}
}

// tokenKey is for whom and what a token is. The organisation is in it although
// the fingerprint tells credentials apart: errors name it, and they are shared
// by those who wait together.
type tokenKey struct {
	at                                 *Client
	realm, service, repo               string
	organisation, account, fingerprint string
}

// repoKey is a repository of the registry of a Client.
type repoKey struct {
	at   *Client
	repo string
}

// owner is whose share of what is kept something counts against that is kept for
// organisation: at a registry of one of them it is that one's, whoever asks.
func (a *Client) owner(organisation string) string { return cmp.Or(a.broughtBy, organisation) }

// forget drops what is kept of a's registry.
func (k *Kept) forget(a *Client) {
	k.tokens.RemoveIf(func(key tokenKey, _ bearerToken) bool { return key.at == a })
	k.challenges.RemoveIf(func(key repoKey, _ Challenge) bool { return key.at == a })
}
