package limit

import (
	"cmp"
	"maps"
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
	hosts := maps.Clone(a.hosts)
	a.mu.Unlock()
	calls := map[Waiting]int{}
	for _, h := range hosts {
		add := func(waiting map[string]int) {
			for organisation, n := range waiting {
				calls[Waiting{Host: h.key, Organisation: organisation}] += n
			}
		}
		for _, p := range []*Pool{h.requests, h.proofs, h.blobs, h.minute.Load()} {
			if p != nil {
				add(p.Waiting())
			}
		}
		h.mu.Lock()
		paced := maps.Clone(h.paced)
		h.mu.Unlock()
		add(paced)
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
