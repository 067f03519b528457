package config

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checker collects what is wrong with one file's part of a configuration.
type checker struct {
	c     *Config
	names *names // the platform's
	now   time.Time

	file string    // where the part came from, for messages
	at   positions // nil: unknown

	// organisation is whose entry is being checked, empty for the platform's own
	// part; folder is where its files must lie, empty in the main file.
	organisation string
	folder       string
	foreign      OrganisationRegistries

	problems Problems
	warnings Problems
}

func newChecker(c *Config, file string, at positions) *checker {
	return &checker{c: c, names: c.names, now: c.opts.now(), file: file, at: at, foreign: c.OrganisationRegistries}
}

func (k *checker) locate(p *Problem, path string) *Problem {
	where := k.at.of(path)
	p.File, p.Line, p.Column, p.Path = k.file, where.line, where.column, path
	return p
}

func (k *checker) errorf(path, format string, args ...any) {
	k.problems = append(k.problems, k.locate(problemf(format, args...), path))
}

func (k *checker) warnf(path, format string, args ...any) {
	k.warnings = append(k.warnings, k.locate(problemf(format, args...), path))
}

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// dot joins path and name. The path of a drop-in is empty.
func dot(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// platform checks everything in the main file but the organisations.
func (k *checker) platform() {
	c := k.c
	k.names = newNames()
	k.registryNames(c.Registries, k.names, "registries")
	k.names.placeRegistries(c.Registries)
	for name, r := range c.Registries {
		k.registry(name, &r, key("registries", name))
	}
	k.listeners(c)
	for i, name := range c.Helpers {
		if !plainName(name) {
			k.errorf(indexed("helpers", i), "%s is no name of a helper: write ecr-login for docker-credential-ecr-login", quote(name))
		}
	}
	for i, p := range c.OrganisationRegistries.AllowPrivate {
		if p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.Bits() == 0 {
			k.warnf(indexed("organisation_registries.allow_private", i), "every organisation could reach this node's own services or the cloud's metadata: list only the network of the registries")
		}
	}
	k.fleet(c.Fleet)
	k.cache(&c.Cache)
	k.upstream(&c.Upstream)
	k.admin(&c.Admin)
	if e := c.Tracing.Endpoint; e != "" && !strings.HasPrefix(e, "http://") && !strings.HasPrefix(e, "https://") {
		k.errorf("tracing.endpoint", "this is no address of a collector: write it as http://localhost:4318")
	}
	k.policy(&c.Policy, "policy", k.names)
	k.between("metrics.max_series", c.Metrics.MaxSeries, 100, 1000000)
	k.reachable()
}

const (
	maxGrace = 30 * day // unused proofs are dropped after this
	maxTTL   = day
)

func (k *checker) cache(c *Cache) {
	k.required("cache.directory", c.Directory)
	if c.MaxSize.IsZero() {
		k.errorf("cache.max_size", "nothing could be kept: write a share such as 20%%, or bytes such as 10GiB")
	}
	if c.MinFree.Percent >= 100 {
		k.errorf("cache.min_free", "nothing could be kept: write a smaller share, such as 10%%")
	}
	k.within("cache.tag_ttl", c.TagTTL, 0, maxTTL)
	k.within("cache.access_ttl", c.AccessTTL, time.Second, maxTTL)
	k.within("cache.grace", c.Grace, 0, maxGrace)
	k.within("cache.doubt", c.Doubt, 0, maxGrace)
	if c.AccessTTL > time.Hour && c.AccessTTL <= maxTTL {
		k.warnf("cache.access_ttl", "a right that a registry withdrew works on for this long: keep it under an hour")
	}
}

func (k *checker) upstream(u *Upstream) {
	k.between("upstream.connections", u.Connections, 1, 1024)
	k.between("upstream.parallel", u.Parallel, 1, 64)
	k.bandwidth("upstream.bandwidth", u.Bandwidth)
	if u.Parallel > u.Connections {
		k.errorf("upstream.parallel", "one download would take more connections than there are: write at most %d, or raise upstream.connections", u.Connections)
	}
	if u.Proxy != "" {
		if _, why := parseEndpoint(u.Proxy); why != "" {
			k.errorf("upstream.proxy", "this is no proxy: write it as http://proxy.example.com:3128, without user name, path or query")
		}
	}
}

// leastBandwidth is how slow a download may be made to be: with less, clients give up.
const leastBandwidth = 64 << 10

func (k *checker) bandwidth(path string, s Size) {
	if s.Percent > 0 || s.Bytes > 0 && s.Bytes < leastBandwidth {
		k.errorf(path, "%s is no bandwidth: write bytes a second, such as 10MiB, at least 64KiB, or 0 for any number", s)
	}
}

func (k *checker) admin(a *Admin) {
	if !a.Address.IsZero() && a.Address.Socket == "" && !a.Address.Loopback() && a.WebConfigFile == "" {
		k.errorf("admin.address", "others than this node can reach this address: listen on localhost, or set web_config_file with TLS and basic authentication")
	}
	switch {
	case a.Socket == "":
	case !filepath.IsAbs(a.Socket):
		k.errorf("admin.socket", "the socket needs a full path: write it as /run/berth/admin.sock")
	case len(a.Socket) > 107: // sun_path in unix(7)
		k.errorf("admin.socket", "the path has more than the 107 bytes that a socket's may have: choose a shorter one")
	}
}

// reachable warns of organisations that nobody could pull as.
func (k *checker) reachable() {
	if len(k.c.Organisations) > 0 && !k.tokensCount() && !k.someoneIs("") {
		k.warnf("organisations", "no listener tells who is calling, so nobody pulls as these organisations: set callers: token, or a listener's organisation")
	}
}

// reachableAs warns if nobody could pull as this organisation, though somebody
// can as others.
func (k *checker) reachableAs(name string, o *Organisation, path string) {
	switch {
	case k.someoneIs(name) || !k.tokensCount() && !k.someoneIs(""):
	case !k.tokensCount():
		k.warnf(path, "no listener is for organisation %s, and none asks for tokens, so nobody pulls as it: set callers: token, or a listener's organisation", quote(name))
	case len(o.Tokens) == 0 && len(o.Credentials) > 0:
		k.warnf(dot(path, "tokens"), "organisation %s has no token, so nobody pulls as it: make one with berth token", quote(name))
	}
}

// tokensCount says whether a listener asks for tokens.
func (k *checker) tokensCount() bool {
	return slices.ContainsFunc(k.c.Listeners, func(l Listener) bool { return l.Callers == CallersToken })
}

// someoneIs says whether everyone at some listener is this organisation; any, if
// the name is empty.
func (k *checker) someoneIs(name string) bool {
	return slices.ContainsFunc(k.c.Listeners, func(l Listener) bool {
		return l.Organisation != "" && (name == "" || l.Organisation == name)
	})
}

func (k *checker) required(path, value string) {
	if value == "" {
		k.errorf(path, "the value is missing: write one")
	}
}

func (k *checker) between(path string, n, low, high int) {
	if n < low || n > high {
		k.errorf(path, "%d is outside of %d to %d: choose a number between them", n, low, high)
	}
}

func (k *checker) within(path string, d, low, high time.Duration) {
	if d < low || d > high {
		k.errorf(path, "%s is outside of %s to %s: choose a duration between them", short(d), short(low), short(high))
	}
}

// short writes 24h as such and not as 24h0m0s.
func short(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d >= time.Minute && d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return d.String()
}

// hasOrganisation says whether name is an organisation of the main file, or the
// one being checked. Drop-ins do not count: one that comes later must not be
// able to put another out.
func (k *checker) hasOrganisation(name string) bool {
	o, ok := k.c.Organisations[name]
	return ok && o.File == "" || name == k.organisation
}

// mayBeOrganisation says whether name is an organisation, even a broken one, or
// may be one as long as the drop-ins were not read.
func (k *checker) mayBeOrganisation(name string) bool {
	_, ok := k.c.Organisations[name]
	_, broken := k.c.Broken[name]
	return ok || broken || !k.c.complete
}
