package node

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/auth/credential"
	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/hung"
	"berth/oci"
	"berth/upstream"
)

const (
	// sampleEvery and sampleFor are how the status page's history is kept.
	sampleEvery = time.Minute
	sampleFor   = 24 * time.Hour
	// shownFailures are as many as the status has.
	shownFailures = 10
)

// pullsOf is what the node did for its clients.
func (n *node) pullsOf() admin.Pulls {
	served, fetched := n.pulls.Totals(), n.upstream.Totals()
	return admin.Pulls{
		Served: served.Images, Failed: served.Failures, SavedBytes: served.CacheBytes,
		Requests: served.Requests, Hits: served.Hits,
		FetchedBytes: fetched.FetchedBytes, ChargedDockerHub: fetched.Manifests[oci.DockerHub],
	}
}

// accountsOf are those of the configuration in force, and the node's address
// where a registry counts what comes from there. Caller holds mu.
func (n *node) accountsOf() []admin.Account {
	known := n.knownAccounts()
	all := []admin.Account{}
	add := func(organisation, registry, name string) {
		a := admin.Account{Organisation: organisation, Registry: registry, Name: name, State: admin.AccountUnused}
		known[credential.Account{Organisation: organisation, Registry: registry, Name: name}].show(&a, n.now())
		n.aboutSecret(&a)
		all = append(all, a)
	}
	for name, o := range n.cfg.Organisations {
		for _, c := range o.Credentials {
			add(name, c.Registry, c.Name)
		}
	}
	for name, r := range n.cfg.Registries {
		if r.Credential != nil {
			add(admin.Nobody, name, credential.Shared)
		}
	}
	for account, k := range known { // whose requests without an account a registry counts, or has stopped
		if account.Name == admin.Nobody && (k.limit.Remaining != nil || k.standing.CoolDownUntil.After(n.now())) {
			add(account.Organisation, account.Registry, admin.Nobody)
		}
	}
	slices.SortFunc(all, func(a, b admin.Account) int {
		return cmp.Or(strings.Compare(a.Organisation, b.Organisation), strings.Compare(a.Registry, b.Registry), strings.Compare(a.Name, b.Name))
	})
	return all
}

// knownAccount is what a registry last said of an account.
type knownAccount struct {
	standing credential.Standing
	limit    upstream.RateLimit
}

// knownAccounts are those that a registry has said something about. Caller holds mu.
func (n *node) knownAccounts() map[credential.Account]knownAccount {
	all := map[credential.Account]knownAccount{}
	for account, s := range n.auth.Standings() {
		all[account] = knownAccount{standing: s}
	}
	for at, l := range n.registryClients() {
		for _, limit := range l.upstream.RateLimits() {
			account := credential.Account{Organisation: cmp.Or(limit.Organisation, admin.Nobody), Registry: at.name, Name: cmp.Or(limit.Account, admin.Nobody)}
			k := all[account]
			k.limit = limit
			all[account] = k
		}
	}
	return all
}

// show adds what is known to a.
func (k knownAccount) show(a *admin.Account, now time.Time) {
	switch {
	case k.standing.Shown && !k.standing.OK:
		a.State = admin.AccountRefused
	case k.standing.Shown || a.Name == admin.Nobody:
		a.State = admin.AccountOK
	}
	if until := k.standing.CoolDownUntil; until.After(now) {
		a.CoolDownUntil = new(until.Truncate(time.Millisecond).UTC())
		if a.State != admin.AccountRefused {
			a.State = admin.AccountResting
		}
	}
	a.RateLimit, a.RateLeft = k.limit.Limit, k.limit.Remaining
	if refills := k.limit.Refills; !refills.IsZero() {
		a.RateRefills = new(refills.UTC())
	}
}

// aboutSecret adds what is known about the secret itself. Caller holds mu.
func (n *node) aboutSecret(a *admin.Account) {
	organisation := strings.TrimPrefix(a.Organisation, admin.Nobody)
	if old, err := n.current.credentials.Trouble(organisation, a.Name, a.Registry); err != nil {
		a.SecretError, a.OldServes = err.Error(), old
		if !old {
			a.State = admin.AccountLost
		}
	}
	if a.State == admin.AccountUnused && n.current.credentials.Renewed(organisation, a.Name, a.Registry) {
		a.State = admin.AccountRenewed
	}
}

// troubled are the registries and mirrors that fail for everyone. Caller holds mu.
func (n *node) troubled() []string {
	all := []string{}
	for _, l := range n.registryClients() {
		names := l.names()
		for i, r := range append([]*upstream.Registry{l.upstream}, l.mirrors...) {
			if r.Troubled() {
				all = append(all, names[i])
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// lastPulls say when each kind of client last pulled, the latest first.
func (n *node) lastPulls() []admin.ClientPull {
	all := []admin.ClientPull{}
	for client, at := range n.pulls.Totals().LastPulls {
		all = append(all, admin.ClientPull{Client: client, Last: at.Truncate(time.Millisecond).UTC()})
	}
	slices.SortFunc(all, func(a, b admin.ClientPull) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Client, b.Client))
	})
	return all
}

// fillsOf are the downloads under way.
func (n *node) fillsOf() []admin.Fill {
	all := []admin.Fill{}
	for _, d := range n.cache.Downloads() {
		all = append(all, admin.Fill{
			Registry: d.Registry, Repository: d.Repository, Digest: d.Digest.String(),
			Bytes: d.Have, Size: d.Size, Readers: d.Readers,
		})
	}
	return all
}

// cacheOf is the folder, and the disk that it is on.
func (n *node) cacheOf() admin.Cache {
	used, limit := n.cache.Size()
	c := admin.Cache{Directory: n.started.Cache.Directory, Bytes: used, LimitBytes: limit}
	st, err := hung.Do(n.hung, hung.Limit, c.Directory, func() (st unix.Statfs_t, err error) { return st, unix.Statfs(n.started.Cache.Directory, &st) })
	if err == nil {
		c.DiskBytes, c.FreeBytes = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
		if st.Files > 0 {
			c.FreeFiles = new(int64(st.Ffree))
		}
	}
	numbers := n.cache.Numbers()
	c.Unwritable = !numbers.Writable
	if p := numbers.Past; p != nil {
		c.PastDisk = &admin.PastDisk{Reason: string(p.Reason), Bytes: p.Bytes}
		if p.Err != nil {
			c.PastDisk.Error = p.Err.Error()
		}
		if !p.Last.IsZero() {
			c.PastDisk.Last = new(p.Last.UTC())
		}
	}
	return c
}

// keepHistory keeps the history that the status page shows.
func (n *node) keepHistory(ctx context.Context) {
	ticks := time.NewTicker(sampleEvery)
	defer ticks.Stop()
	for {
		n.history.Add(n.now(), n.pullsOf())
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// status is the node as it is now.
func (n *node) status(ctx context.Context) (admin.Status, error) {
	folder, fills, held := n.cacheOf(), n.fillsOf(), n.heldOf(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	s := admin.Status{
		Version: n.version, PID: os.Getpid(), Started: n.start, Now: now, UptimeSeconds: int64(now.Sub(n.start) / time.Second),
		Configuration: admin.Configuration{Reload: n.reloadAnswer(n.cfg), Applied: n.read},
		Pulls:         n.pullsOf(), Cache: folder, Accounts: n.accountsOf(),
		Troubled: n.troubled(), Fills: fills, Waiting: n.waitingOf(), Held: held, Clients: n.lastPulls(), Bypasses: n.bypasses.shown(), Failures: []admin.Failure{},
		Fleet: n.engines.status(n.started.Fleet),
	}
	if err := openMetrics(n.cfg); err != nil {
		s.Configuration.Warnings = append(s.Configuration.Warnings, err.Error())
	}
	kept := n.failures.All(time.Time{})
	for i := range kept[:min(len(kept), shownFailures)] {
		s.Failures = append(s.Failures, shownFailure(&kept[i]))
	}
	s.Configuration.Organisations = append(s.Configuration.Organisations, n.inMainFile()...)
	slices.SortFunc(s.Configuration.Organisations, func(a, b admin.File) int { return strings.Compare(a.Organisation, b.Organisation) })
	for i, f := range n.listeners {
		s.Listeners = append(s.Listeners, f.status(&n.current.settings[i]))
	}
	return s, nil
}

// namelessStatus gives the status for whoever may not learn the names of organisations.
func (n *node) namelessStatus(ctx context.Context) (admin.Status, error) {
	s, err := n.status(ctx)
	if err != nil {
		return s, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	own := func(registry string) bool {
		for _, o := range n.cfg.Organisations {
			if _, own := o.Registries[registry]; own {
				return true
			}
		}
		return false
	}
	s.Troubled = slices.DeleteFunc(s.Troubled, own)
	s.Bypasses = slices.DeleteFunc(s.Bypasses, func(b admin.Bypass) bool { return own(b.Registry) })
	return s.Nameless(), nil
}

// inMainFile are the organisations that have no file of their own. Caller holds mu.
func (n *node) inMainFile() (all []admin.File) {
	for name, o := range n.cfg.Organisations {
		if _, ok := n.cfg.Files[name]; !ok && o.File == "" {
			all = append(all, admin.File{Organisation: name, Path: n.cfg.Files[""].Path, State: admin.Applied})
		}
	}
	return all
}

// status is a listener with the settings that are in force there.
func (f *listener) status(l *config.Listener) admin.Listener {
	shown := admin.Listener{
		Address: f.address.String(), Sockets: []string{}, Callers: string(l.Callers),
		Organisation: l.Organisation, Registry: l.Registry,
		OrganisationInName: string(l.OrganisationInName), Names: l.Names,
	}
	for _, s := range f.sockets {
		shown.Sockets = append(shown.Sockets, s.String())
	}
	if shown.TLS = f.cert != nil; shown.TLS {
		shown.CertificateEnds = new(f.cert.ends())
	}
	return shown
}

func (n *node) waitingOf() []admin.Waiting {
	all := []admin.Waiting{}
	for _, w := range n.hosts.Waiting() {
		all = append(all, admin.Waiting{Organisation: cmp.Or(w.Organisation, admin.Nobody), Host: w.Host, Requests: w.Calls})
	}
	return all
}
