package node

import (
	"fmt"
	"slices"
	"time"

	"berth/internal/config"
	"berth/internal/descriptor"
)

const (
	// ownDescriptors are what this process has open besides pulls: listeners, the
	// files of the cache and the proofs, watched folders, connections of commands and
	// Prometheus, idle ones to registries.
	ownDescriptors = 64
	// perPull is what one pull has open: the client's connection, the file that is
	// read, and one more for the download or for a question to the registry. What a
	// cold one needs beyond that, downloads share, and they are bounded.
	perPull = 3
	// usualRequests stands for callers without an organisation, who are not configured:
	// as many as one organisation has by default.
	usualRequests = 256

	// adminConnections are how many the operators' address has: Prometheus, a probe, a
	// few browsers. One that takes its answer for longer than adminStall gives way to
	// others.
	adminConnections = 24
	adminStall       = 2 * time.Second
	// fewestConnections and mostConnectionsEver bound those of pulls: there have to be
	// some, and an idle one takes 20 KiB of memory.
	fewestConnections, mostConnectionsEver = 8, 8192
)

// mostConnections is how many connections for pulls there may be where limit
// descriptors are (0: as many as you like), so that enough are left for what they ask
// for.
func mostConnections(limit int) int {
	if limit == 0 {
		return mostConnectionsEver
	}
	return min(max((limit-ownDescriptors)/perPull, fewestConnections), mostConnectionsEver)
}

// mostUpstream is how many connections to registries stay open where limit descriptors
// are (0: as many as you like), idle ones among them: as many as pulls may need of them.
func mostUpstream(limit int) int64 {
	if limit == 0 {
		return mostConnectionsEver
	}
	return int64(min(max(limit/4, fewestConnections), mostConnectionsEver))
}

// requestLimits are how many requests of each organisation, and of callers without one,
// are answered at once where there are so many connections: what is allowed, but no
// more than a quarter, so that with those that wait for their turn half stay for others.
func requestLimits(cfg *config.Config, connections int) map[string]int {
	share := max(connections/4, 1)
	all := limits(cfg, func(l config.Limits) int { return min(l.Requests, share) })
	all[""] = share
	return all
}

// descriptorsFor is how many descriptors cfg needs when everybody uses his limit of
// requests.
func descriptorsFor(cfg *config.Config) int {
	requests := 0
	for _, o := range cfg.Organisations {
		requests += o.Limits.Requests
	}
	unlimited := func(l config.Listener) bool {
		_, known := cfg.Organisations[l.Organisation]
		return l.Callers != config.CallersToken && !known
	}
	if slices.ContainsFunc(cfg.Listeners, unlimited) {
		requests += usualRequests
	}
	return ownDescriptors + perPull*requests
}

// weighed is cfg with a warning where this process may open fewer files than cfg
// needs. It is no error: the limits are for the worst moment, and who finds no
// descriptor then is told to come again.
func weighed(cfg *config.Config) *config.Config {
	may, need := descriptor.Limit(), descriptorsFor(cfg)
	if may == 0 || may >= need {
		return cfg
	}
	next := *cfg
	next.Warnings = append(slices.Clone(cfg.Warnings), fmt.Sprintf(
		"berth may have %d files and connections open at once, and needs %d when all use their limits.requests: some pulls wait then, or fail: raise LimitNOFILE= in the unit (ulimit -Hn elsewhere), or lower limits.requests",
		may, need))
	return &next
}
