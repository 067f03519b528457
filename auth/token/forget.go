package token

import (
	"strings"
	"sync"
)

// purges orders the keeping of tokens and the forgetting of them: one that was
// asked for before it was forgotten is not kept after.
type purges struct {
	mu   sync.Mutex
	done uint64
}

// Forget drops the tokens that were granted to organisation. A request that was
// prepared already goes on with the one it has. What is remembered about refused
// credentials stays: the registry has locked accounts out for less.
func (a *Client) Forget(organisation string) {
	a.purges.mu.Lock()
	defer a.purges.mu.Unlock()
	a.purges.done++
	a.kept.tokens.RemoveIf(func(key tokenKey, _ bearerToken) bool { return key.at == a && key.organisation == organisation })
}

// before is for keep, taken before a token is asked for.
func (p *purges) before() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// keep keeps a token, unless something was forgotten since it was asked for.
// Another organisation's costs it one more request.
func (a *Client) keep(key tokenKey, t bearerToken, before uint64) {
	a.purges.mu.Lock()
	defer a.purges.mu.Unlock()
	if a.purges.done == before {
		key.repo = strings.Clone(key.repo) // it may be a piece of a long path
		a.kept.tokens.Add(a.owner(key.organisation), key, t)
	}
}
