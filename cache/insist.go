package cache

import (
	"context"
	"sync"
	"time"

	"berth/cache/proof"
	"berth/internal/hold"
	"berth/oci"
)

// insistEvery is how often one organisation may have a question put that a limit
// which is remembered would stop.
const insistEvery = time.Second

// insistence lets one question about a right go out although its account, or this
// node, is to leave the registry alone. Else whoever has lost a right could use up a
// limit, and so keep the registry's no away. It is one for each proof and access TTL,
// and only where there is a proof: nobody gets requests by inventing names.
type insistence struct {
	mu            sync.Mutex // held from looking to holding
	proofs        *hold.Table[proof.Access]
	organisations *hold.Table[string]
}

func newInsistence(now func() time.Time) *insistence {
	return &insistence{proofs: hold.New[proof.Access](8192, now), organisations: hold.New[string](8192, now)}
}

// take reports whether the question about key may be put now, and notes that it is.
func (i *insistence) take(key proof.Access, ttl time.Duration) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	organisation := key.Principal.Organisation
	if _, _, held := i.proofs.Held(key); held {
		return false
	}
	if _, _, held := i.organisations.Held(organisation); held {
		return false
	}
	i.proofs.For(organisation, key, ttl, nil)
	i.organisations.For(organisation, organisation, insistEvery, nil)
	return true
}

// insisting is ctx for a question about key.
func (s *source) insisting(ctx context.Context, key proof.Access) context.Context {
	if key.Principal.Shared() {
		return ctx
	}
	return oci.Insist(ctx, func() bool {
		age, _ := s.proofs.Access(key)
		return age != proof.None && s.c.insistence.take(key, s.proofs.AccessTTL())
	})
}
