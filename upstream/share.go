package upstream

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"berth/oci"

	"berth/upstream/classify"
)

// usualWindow is the window of a limit whose registry does not tell it: Docker
// Hub's.
const usualWindow = 6 * time.Hour

// shares are what organisations have used of the pulls that the registry allows
// this node without an account.
type shares struct {
	mu    sync.Mutex
	spent map[string][]time.Time // by organisation, in order
}

// keptUntold is how many pulls are remembered for when a registry tells its
// limit: no limit for those without an account is larger.
const keptUntold = 1000

// Spend takes one of the pulls without an account that organisation may have:
// share, from 0 to 1, of the registry's limit. undo gives it back when there was
// no pull. Everyone may have them all where the registry has not told its limit.
func (r *Registry) Spend(organisation string, share float64) (undo func(), err error) {
	limit, window := r.accounts.anonymous()
	now := r.now()
	s := &r.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	spent := slices.DeleteFunc(s.spent[organisation], func(at time.Time) bool { return now.Sub(at) >= window })
	switch {
	case limit == nil:
		spent = spent[max(0, len(spent)-keptUntold+1):]
	case len(spent) >= allowance(*limit, share):
		s.keep(organisation, spent)
		return nil, r.overShare(organisation, allowance(*limit, share), window, spent)
	}
	s.keep(organisation, append(spent, now))
	return func() { s.undo(organisation, now) }, nil
}

// allowance is at least one pull, where it is not none at all.
func allowance(limit int64, share float64) int {
	if share <= 0 {
		return 0
	}
	return max(1, int(share*float64(limit)))
}

func (s *shares) undo(organisation string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	spent := s.spent[organisation]
	if i := slices.Index(spent, at); i >= 0 {
		s.keep(organisation, slices.Delete(spent, i, i+1))
	}
}

// keep replaces what organisation has spent. Caller holds mu.
func (s *shares) keep(organisation string, spent []time.Time) {
	if len(spent) == 0 {
		delete(s.spent, organisation)
		return
	}
	if s.spent == nil {
		s.spent = map[string][]time.Time{}
	}
	s.spent[organisation] = spent
}

// overShare is an error like the registry's own 429, before that comes for
// everyone on this node.
func (r *Registry) overShare(organisation string, most int, window time.Duration, spent []time.Time) error {
	again := window
	if most > 0 {
		again -= r.now().Sub(spent[len(spent)-most])
	}
	who, what := "organisation "+organisation+": it has had its", "connect an account for "+r.name
	if organisation == "" {
		who, what = "callers without an organisation have had their", "pull as an organisation"
	}
	return &oci.Error{
		Class: oci.RateLimited, Detail: classify.PullLimit, RetryAfter: again, About: oci.About{Organisation: organisation},
		Message: fmt.Sprintf("%s share of what %s allows this node without an account, %d pulls in %s (limits.anonymous_share); there is more in %s: %s, or wait",
			who, r.name, most, classify.Span(window), classify.Span(again), what),
	}
}
