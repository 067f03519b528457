package limit

import (
	"cmp"
	"slices"
)

// Waiting is how many calls of one organisation wait at one host.
type Waiting struct {
	Host, Organisation string
	Calls              int
}

// Waiting says who waits, in order.
func (a *Hosts) Waiting() []Waiting {
	a.mu.Lock()
	var pools []*Pool
	var keys []string
	for key, h := range a.hosts {
		for _, p := range []*Pool{h.requests, h.proofs, h.blobs, h.minute.Load()} {
			if p != nil {
				pools, keys = append(pools, p), append(keys, key)
			}
		}
	}
	a.mu.Unlock()
	calls := map[Waiting]int{}
	for i, p := range pools {
		for organisation, n := range p.Waiting() {
			calls[Waiting{Host: keys[i], Organisation: organisation}] += n
		}
	}
	var all []Waiting
	for w, n := range calls {
		w.Calls = n
		all = append(all, w)
	}
	slices.SortFunc(all, func(x, y Waiting) int {
		return cmp.Or(cmp.Compare(x.Host, y.Host), cmp.Compare(x.Organisation, y.Organisation))
	})
	return all
}
