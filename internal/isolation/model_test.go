package isolation_test

import (
	"slices"
	"time"

	"berth/upstream"
)

// seat is as whom somebody asks for one repository, and at which node.
type seat struct {
	org  string
	repo *repository
	node int
}

// view is a registry as one node sees it.
type view struct {
	node int
	*place
}

// model is what the registries and the node's promises make of who may get what.
type model struct {
	*harbour

	rights map[*account]map[string]bool // repositories at the account's registry
	good   map[*account]bool            // the node has the password that the registry wants
	proven map[seat]time.Time           // the last time that upstream could have said yes
	missed map[string]time.Time         // when somebody was told 404
	booted []time.Time
	counts map[string]int
	shaken map[view]bool // see look
	// removed are organisations that are gone, and what their callers' token was.
	removed map[string]string
	// evil is what the villain does beside; nil: nothing. What others wait is noted.
	evil  *mischief
	waits waits
	// elsewhere is the same at another node, to which the same happens; nil: there is none.
	elsewhere *model
	// troubled are registries that were in trouble before; see look.
	troubled map[*place]bool
}

func newModel(h *harbour) *model {
	m := &model{
		harbour: h, rights: map[*account]map[string]bool{}, good: map[*account]bool{},
		proven: map[seat]time.Time{}, missed: map[string]time.Time{}, counts: map[string]int{}, shaken: map[view]bool{}, troubled: map[*place]bool{}, removed: map[string]string{},
	}
	for range h.nodes {
		m.booted = append(m.booted, h.clock.now())
	}
	for i, p := range h.places[:3] {
		for n, name := range h.names {
			if a := m.accountOf(name, p); a != nil {
				m.good[a], m.rights[a] = true, map[string]bool{name + "/own": true}
				m.rights[a]["team/app"] = n == i%5
				m.rights[a]["team/web"] = n == (i+1)%5 || n == (i+2)%5
				m.grant(a)
			}
		}
	}
	return m
}

func (m *model) accountOf(org string, p *place) *account {
	for _, a := range m.accounts {
		if a.organisation == org && a.registry == p.name {
			return a
		}
	}
	return nil
}

// grant tells the registry what the model thinks.
func (m *model) grant(a *account) {
	var repos []string
	for repo, ok := range m.rights[a] {
		if ok {
			m.ever[[3]string{a.organisation, a.registry, repo}] = true
			repos = append(repos, repo)
		}
	}
	for _, p := range m.places {
		if p.name == a.registry {
			user, _ := a.get()
			p.reg.SetRights(user, repos...)
		}
	}
}

// allows says whether the registry, asked now, says yes.
func (m *model) allows(s seat) bool {
	if s.repo.at == m.hostile {
		return s.org == villain
	}
	a := m.accountOf(s.org, s.repo.at)
	switch {
	case a == nil:
		return s.repo.public && s.repo.at.uniform
	case s.repo.public:
		return m.good[a] || s.repo.at.uniform
	}
	return m.good[a] && m.rights[a][s.repo.name]
}

// trouble is what the registry does, and what the node still thinks of it.
func (m *model) trouble(v view) trouble {
	state := trouble(m.state[v.place].Load())
	if state == healthy && m.shaken[v] {
		return recovering
	}
	return state
}

// look finds out where a node has not noticed yet that a registry is well
// again: until then it may answer from memory. What the villain alone has run into is no
// trouble of a registry.
func (m *model) look() {
	if m.elsewhere != nil {
		m.elsewhere.clock.ahead.Store(m.clock.ahead.Load())
		m.elsewhere.limited.Store(m.limited.Load())
	}
	for _, p := range m.places {
		shaken := false
		for i, n := range m.nodes {
			v := view{i, p}
			m.shaken[v] = slices.ContainsFunc(n.node.lines[p].RateLimits(), func(r upstream.RateLimit) bool {
				return r.BreakerOpen || !r.CoolDownUntil.IsZero() && (m.evil == nil || r.Organisation != villain)
			}) && (m.evil == nil || m.troubled[p])
			shaken = shaken || m.shaken[v]
		}
		m.troubled[p] = shaken || trouble(m.state[p].Load()) != healthy
	}
}

func (s seat) view() view { return view{s.node, s.repo.at} }

// hears says whether somebody who asks may reach the registry, and be told the truth.
func (s trouble) hears() bool { return s == healthy || s == tokenless || s == recovering }

const (
	accessTTL = 5 * time.Minute
	grace     = 24 * time.Hour
	doubt     = time.Hour
	slack     = 10 * time.Second // real time that passes meanwhile
)

// may says whether private bytes of the repository may be in an answer now.
func (m *model) may(s seat) bool {
	state := m.trouble(s.view())
	if state.hears() && m.allows(s) {
		return true
	}
	last, ok := m.proven[s]
	if !ok {
		return false
	}
	age := m.clock.now().Sub(last)
	if m.evil != nil && s.org == villain && state == healthy { // it is limited, or was
		return age < doubt+slack
	}
	if state != healthy {
		return age < grace+slack
	}
	return age < accessTTL+slack && !last.Before(m.booted[s.node])
}
