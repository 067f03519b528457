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
	waiting       map[proof.Access]int // questions that a limit of ours keeps from being put
}

func newInsistence(now func() time.Time) *insistence {
	return &insistence{proofs: hold.New[proof.Access](8192, now), organisations: hold.New[string](8192, now), waiting: map[proof.Access]int{}}
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

// insisting is ctx for a question about key, until end.
func (s *source) insisting(ctx context.Context, key proof.Access) (_ context.Context, end func()) {
	i, repo := s.c.insistence, s.repoKey(key.Principal, key.Repo)
	var insists, stopped bool
	sent := func() {
		if stopped {
			stopped = false
			i.stopped(repo, -1)
		}
	}
	return oci.WithQuestion(ctx, oci.Question{
		Stopped: func() bool {
			if age, _ := s.proofs.Access(key); !insists && age != proof.None && !key.Principal.Shared() {
				insists = i.take(key, s.proofs.AccessTTL())
			}
			if !insists && !stopped {
				stopped = true
				i.stopped(repo, 1)
			}
			return insists
		},
		Sent: sent,
	}), sent
}

// stopped counts the questions about a repository that wait for a limit of ours.
func (i *insistence) stopped(repo proof.Access, by int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waiting[repo] += by; i.waiting[repo] == 0 {
		delete(i.waiting, repo)
	}
}

func (i *insistence) waits(repo proof.Access) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.waiting[repo] > 0
}
