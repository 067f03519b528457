package node

import (
	"fmt"
	"sync"
	"time"

	"berth/internal/registry"
	"berth/oci"
)

const (
	// maxUnlisted bounds how many registries that no configuration names have connections
	// and a memory here.
	maxUnlisted = 64
	// unlistedFor is how long one of them stays that nobody asks any more, and longer than
	// a pull of it takes.
	unlistedFor = time.Hour
)

// unlisted are the registries that no configuration names, as long as they are asked. They
// outlive generations, since nothing in a configuration is about them.
type unlisted struct {
	mu    sync.Mutex
	known map[string]*unlistedRegistry // by name
}

type unlistedRegistry struct {
	*registryClient

	owner string // the organisation that asked for it first; empty: nobody
	used  time.Time
}

// client is that of spec, which is made where there is none. Where all places are taken,
// the organisation that has most of them gives way to one that has fewer.
func (u *unlisted) client(n *node, organisation string, spec *registry.Spec) (*registryClient, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := n.now()
	if r := u.known[spec.Name]; r != nil {
		r.used = now
		return r.registryClient, nil
	}
	if len(u.known) >= maxUnlisted {
		u.dropIdle(now)
	}
	if len(u.known) >= maxUnlisted && !u.dropOfLargest(organisation) {
		return nil, &oci.Error{
			Class:   oci.Policy,
			Message: fmt.Sprintf("%s is not configured on this node, which asks %d such registries already: add it under registries:", spec.Name, maxUnlisted),
		}
	}
	c, err := n.newClient(spec, nil)
	if err != nil {
		return nil, err
	}
	if u.known == nil {
		u.known = map[string]*unlistedRegistry{}
	}
	u.known[spec.Name] = &unlistedRegistry{c, organisation, now}
	return c, nil
}

func (u *unlisted) dropIdle(now time.Time) {
	for name, r := range u.known {
		if now.Sub(r.used) >= unlistedFor {
			r.close()
			delete(u.known, name)
		}
	}
}

// dropOfLargest drops the registry that was asked least recently of the organisation that
// has most, unless organisation would then have as many as that one.
func (u *unlisted) dropOfLargest(organisation string) bool {
	has := map[string]int{}
	for _, r := range u.known {
		has[r.owner]++
	}
	largest := organisation
	for owner, n := range has {
		if n > has[largest] {
			largest = owner
		}
	}
	if has[largest] <= has[organisation]+1 {
		return false
	}
	oldest := ""
	for name, r := range u.known {
		if r.owner == largest && (oldest == "" || r.used.Before(u.known[oldest].used)) {
			oldest = name
		}
	}
	u.known[oldest].close()
	delete(u.known, oldest)
	return true
}

// close closes all. Nothing may be served any more.
func (u *unlisted) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.known {
		r.close()
	}
	u.known = nil
}

// live is a registry as g serves it.
func (g *generation) live(n *node, organisation string, spec *registry.Spec) (*liveRegistry, error) {
	if !spec.Unlisted {
		return g.registries[spec], nil
	}
	client, err := n.unlisted.client(n, organisation, spec)
	if err != nil {
		return nil, err
	}
	return g.newLiveRegistry(client.spec, client), nil
}
