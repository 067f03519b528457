package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/admin"
	"berth/oci"
)

const (
	// sampleEvery and sampleFor are how the status page's history is kept.
	sampleEvery = time.Minute
	sampleFor   = 24 * time.Hour
	// shownFailures are as many as the status has.
	shownFailures = 10
)

// pullsOf is what the node did for its clients.
func pullsOf(s *samples) admin.Pulls {
	results := map[string]bool{
		string(oci.Hit): true, string(oci.Join): true, string(oci.Revalidated): true, string(oci.Stale): true,
		string(oci.Fill): false, string(oci.Pass): false,
	}
	content := func(l map[string]string) bool {
		_, answered := results[l["result"]]
		return answered && l["kind"] != "list"
	}
	return admin.Pulls{
		Served: s.sum("berth_pulls_total", nil),
		ChargedDockerHub: s.sum("berth_upstream_requests_total", func(l map[string]string) bool {
			return l["registry"] == oci.DockerHub && l["operation"] == "manifest_get" && l["code"] == "200"
		}),
		Failed:       s.sum("berth_pull_failures_total", nil),
		SavedBytes:   s.sum("berth_served_bytes_total", func(l map[string]string) bool { return l["source"] == "cache" }),
		FetchedBytes: s.sum("berth_upstream_fetched_bytes_total", nil),
		Requests:     s.sum("berth_requests_total", content),
		Hits:         s.sum("berth_requests_total", func(l map[string]string) bool { return content(l) && results[l["result"]] }),
	}
}

// accountsOf are those of the configuration in force, and the node's address
// where a registry counts what comes from there. Caller holds mu.
func (n *node) accountsOf(s *samples) []admin.Account {
	all := []admin.Account{}
	for name, o := range n.cfg.Organisations {
		for _, c := range o.Credentials {
			all = append(all, s.account(name, c.Registry, c.Name, n.now()))
		}
	}
	for name, r := range n.cfg.Registries {
		if r.Credential != nil {
			all = append(all, s.account(admin.Nobody, name, sharedAccount, n.now()))
		}
	}
	for _, l := range s.withoutAccount() {
		a := s.account(l["organisation"], l["registry"], admin.Nobody, n.now())
		if a.RateLeft != nil || a.CoolDownUntil != nil {
			all = append(all, a)
		}
	}
	n.refills(all)
	for i := range all {
		a := &all[i]
		n.aboutSecret(a)
	}
	slices.SortFunc(all, func(a, b admin.Account) int {
		return cmp.Or(strings.Compare(a.Organisation, b.Organisation), strings.Compare(a.Registry, b.Registry), strings.Compare(a.Name, b.Name))
	})
	return all
}

// aboutSecret adds what is known about the secret itself. Caller holds mu.
func (n *node) aboutSecret(a *admin.Account) {
	organisation := strings.TrimPrefix(a.Organisation, admin.Nobody)
	if old, err := n.desk.credentials.Trouble(organisation, a.Name, a.Registry); err != nil {
		a.SecretError, a.OldServes = err.Error(), old
		if !old {
			a.State = admin.AccountLost
		}
	}
	if a.State == admin.AccountUnused && n.desk.credentials.Renewed(organisation, a.Name, a.Registry) {
		a.State = admin.AccountRenewed
	}
}

// withoutAccount are whose requests without an account a registry counts, or has
// stopped.
func (s *samples) withoutAccount() (all []map[string]string) {
	for _, one := range slices.Concat(s.series["berth_ratelimit_remaining"], s.series["berth_cooldown_until_timestamp_seconds"]) {
		known := func(l map[string]string) bool { return maps.Equal(l, one.labels) }
		if one.labels["account"] == admin.Nobody && !slices.ContainsFunc(all, known) {
			all = append(all, one.labels)
		}
	}
	return all
}

// troubledOf are the registries that fail for everyone.
func troubledOf(s *samples) []string {
	all := []string{}
	for _, one := range s.series["berth_breaker_open"] {
		if one.value == 1 {
			all = append(all, one.labels["registry"])
		}
	}
	slices.Sort(all)
	return all
}

// refills says when the limits of accounts do. Caller holds mu.
func (n *node) refills(all []admin.Account) {
	for at, l := range n.lines() {
		for _, limit := range l.upstream.RateLimits() {
			for i := range all {
				a := &all[i]
				same := a.Registry == at.name && a.Organisation == cmp.Or(limit.Organisation, admin.Nobody) && a.Name == cmp.Or(limit.Account, admin.Nobody)
				if same && !limit.Refills.IsZero() {
					a.RateRefills = new(limit.Refills.UTC())
				}
			}
		}
	}
}

// account is what a registry last thought of one.
func (s *samples) account(organisation, registry, name string, now time.Time) admin.Account {
	a := admin.Account{Organisation: organisation, Registry: registry, Name: name, State: admin.AccountUnused}
	labels := map[string]string{"organisation": organisation, "registry": registry, "account": name}
	if ok, known := s.one("berth_credential_ok", labels); known {
		if a.State = admin.AccountRefused; ok == 1 {
			a.State = admin.AccountOK
		}
	} else if name == admin.Nobody {
		a.State = admin.AccountOK
	}
	if until, _ := s.one("berth_cooldown_until_timestamp_seconds", labels); until > 0 {
		if at := time.UnixMilli(int64(until * 1000)).UTC(); at.After(now) {
			a.CoolDownUntil = &at
			if a.State != admin.AccountRefused {
				a.State = admin.AccountResting
			}
		}
	}
	a.RateLimit = s.count("berth_ratelimit_limit", labels)
	a.RateLeft = s.count("berth_ratelimit_remaining", labels)
	return a
}

// count is nil where there is no such series.
func (s *samples) count(name string, labels map[string]string) *int64 {
	value, ok := s.one(name, labels)
	if !ok {
		return nil
	}
	return new(int64(value))
}

// clientsOf say when each kind of client last pulled, the latest first.
func clientsOf(s *samples) []admin.ClientPull {
	all := []admin.ClientPull{}
	for _, one := range s.series["berth_last_pull_timestamp_seconds"] {
		all = append(all, admin.ClientPull{Client: one.labels["client"], Last: time.UnixMilli(int64(one.value * 1000)).UTC()})
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
func (n *node) cacheOf(s *samples) admin.Cache {
	used, limit := n.cache.Size()
	c := admin.Cache{Directory: n.started.Cache.Directory, Bytes: used, LimitBytes: limit}
	var st unix.Statfs_t
	if unix.Statfs(c.Directory, &st) == nil {
		c.DiskBytes, c.FreeBytes = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
		if st.Files > 0 {
			c.FreeFiles = new(int64(st.Ffree))
		}
	}
	if writable, known := s.one("berth_cache_writable", map[string]string{}); known {
		c.Unwritable = writable == 0
	}
	if p := n.cache.Numbers().Past; p != nil {
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

// watchPulls keeps the history that the status page shows.
func (n *node) watchPulls(ctx context.Context) {
	ticks := time.NewTicker(sampleEvery)
	defer ticks.Stop()
	for {
		if s, err := newSamples(n.registry); err == nil { // else there is a gap
			n.history.Add(n.now(), pullsOf(s))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}
