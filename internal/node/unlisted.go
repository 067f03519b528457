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
	// unlistedLeast is how long at least one stays that its organisation makes room for
	// itself with: what it has used up there is full again by then, and was not got around.
	unlistedLeast = time.Minute
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
// the organisation that has most of them gives way: what it has not used for longest.
func (u *unlisted) client(n *node, organisation string, spec *registry.Spec) (*registryClient, error) {
	c, dropped, err := u.find(n, organisation, spec)
	for _, r := range dropped {
		r.close() // without the lock, since it waits for what is under way there
	}
	return c, err
}

func (u *unlisted) find(n *node, organisation string, spec *registry.Spec) (_ *registryClient, dropped []*unlistedRegistry, _ error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := n.now()
	if r := u.known[spec.Name]; r != nil {
		r.used = now
		return r.registryClient, nil, nil
	}
	if len(u.known) >= maxUnlisted {
		dropped = u.dropIdle(now)
	}
	if len(u.known) >= maxUnlisted {
		r := u.dropOfLargest(organisation, now)
		if r == nil {
			return nil, nil, &oci.Error{
				Class:   oci.Policy,
				Message: fmt.Sprintf("%s is not configured on this node, which asks %d such registries already: add it under registries:", spec.Name, maxUnlisted),
			}
		}
		dropped = append(dropped, r)
	}
	c, err := n.newClient(spec, nil)
	if err != nil {
		return nil, dropped, err
	}
	if u.known == nil {
		u.known = map[string]*unlistedRegistry{}
	}
	u.known[spec.Name] = &unlistedRegistry{c, organisation, now}
	return c, dropped, nil
}

func (u *unlisted) dropIdle(now time.Time) (dropped []*unlistedRegistry) {
	for name, r := range u.known {
		if now.Sub(r.used) >= unlistedFor {
			dropped = append(dropped, r)
			delete(u.known, name)
		}
	}
	return dropped
}

// dropOfLargest drops the registry that was asked least recently of the organisation that
// has most. Where organisation would then have as many as that one, or has most itself,
// only one that nobody has asked for a while. Nil: there is none.
func (u *unlisted) dropOfLargest(organisation string, now time.Time) *unlistedRegistry {
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
	oldest := ""
	for name, r := range u.known {
		if r.owner == largest && (oldest == "" || r.used.Before(u.known[oldest].used)) {
			oldest = name
		}
	}
	r := u.known[oldest]
	if r == nil || has[largest] <= has[organisation]+1 && now.Sub(r.used) < unlistedLeast {
		return nil
	}
	delete(u.known, oldest)
	return r
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
func (g *generation) live(organisation string, spec *registry.Spec) (*liveRegistry, error) {
	if !spec.Unlisted {
		return g.registries[spec], nil
	}
	client, err := g.node.unlisted.client(g.node, organisation, spec)
	if err != nil {
		return nil, err
	}
	return g.newLiveRegistry(client.spec, client), nil
}
