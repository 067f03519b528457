package config

import (
	"maps"
	"slices"
	"time"
)

// Organisation is one tenant: an entry below organisations, or a drop-in file.
type Organisation struct {
	// What its callers present as the password on listeners with callers: token.
	// Any of them will do, so that a new one can be handed out before the old one
	// goes. Default: none.
	Tokens []Token `yaml:"tokens"`

	// Its accounts at registries. Of several that match an image the one with the
	// most specific repositories is used, of equals the first. A caller picks one
	// by name with organisation+account as the user name. Default: none, so that
	// it sees public images only.
	Credentials []Credential `yaml:"credentials"`

	// Registries that only this organisation uses, by name. They are narrower than
	// the platform's and may not carry a name or alias that the platform has.
	// Refused where organisation_registries.allow is false. Default: none.
	Registries map[string]Registry `yaml:"registries"`

	// Its share of this node.
	Limits Limits `yaml:"limits"`

	// Like cache.grace, for this organisation; in a drop-in the shorter of the two holds.
	// Default: cache.grace.
	Grace time.Duration `yaml:"grace"`

	// A file with the organisation's key in the fleet, as a secret file, written like
	// fleet.key_file; one or two keys. It opens what the organisation's accounts share
	// among nodes, so it belongs on the nodes that host the organisation and nowhere
	// else. Default: none, and its private images are shared with no other node.
	FleetKeyFile string `yaml:"fleet_key_file"`

	// What it may pull, of what the main file's policy lets everyone pull.
	Policy Policy `yaml:"policy"`

	// File is the drop-in that it comes from; empty: the main file.
	File string `yaml:"-"`
}

// Folder is what its files may not leave, as Account.Folder; empty in the main file.
func (o *Organisation) Folder() string {
	if o.File == "" {
		return ""
	}
	return folderOf(o.File)
}

// GraceIn is the grace that holds for o in c: whoever writes a drop-in may shorten it for
// himself, and not keep a right for longer than the operator has it. It is not resolved
// once, since an organisation whose file is bad goes on under a main file that changes.
func (o *Organisation) GraceIn(c *Config) time.Duration {
	if o.File == "" {
		return o.Grace
	}
	return min(o.Grace, c.Cache.Grace)
}

// Token is one password of an organisation's callers.
type Token struct {
	// What it is called in the log, such as the node it is for. Required, once
	// for each organisation.
	Name string `yaml:"name"`

	// The token's SHA-256 in hexadecimal; "berth token" makes a token and prints
	// this. Required.
	SHA256 Hash `yaml:"sha256"`

	// The last moment it is good for: a day (2027-01-31, to its end in UTC) or an
	// instant (2027-01-31T12:00:00Z). Default: for ever.
	NotAfter time.Time `yaml:"not_after"`

	// What it is for. "login": the password of a docker login or of X-Registry-Auth.
	// "header": a header that a client's own configuration adds to its requests
	// (authorization in a hosts.toml, or X-Meta-Berth from the Docker CLI's
	// HttpHeaders); it is good from this machine only, since clients may show such
	// headers to other hosts too. Default: login.
	For TokenFor `yaml:"for"`
}

func (t *Token) setDefaults(string) { t.For = ForLogin }

// TokenFor is what a token is for.
type TokenFor string

// The uses of a token.
const (
	ForLogin  TokenFor = "login"
	ForHeader TokenFor = "header"
)

// Values are those of for.
func (TokenFor) Values() []string { return []string{string(ForLogin), string(ForHeader)} }

// Limits are an organisation's share of this node.
type Limits struct {
	// Requests that are answered at once, 1 to 100000. As many more wait for up to
	// five seconds; what is beyond gets 503 and is told to try again. Nobody else
	// waits. Default: 256.
	Requests int `yaml:"requests"`

	// Blobs that are downloaded from registries at once, 1 to 10000; whoever joins
	// a download that is under way costs its organisation nothing. What is beyond
	// waits for up to 15 seconds, gets 503 then and is told to try again. Nobody
	// else waits. Default: 16.
	Fills int `yaml:"fills"`

	// The share, from 0 to 1, that it may use of the pulls that a registry allows
	// this node's address without an account, where the registry tells how many
	// those are; then 429. Callers without an organisation have the default, where there
	// are organisations. Default: 0.25.
	AnonymousShare float64 `yaml:"anonymous_share"`

	// Requests a second to one registry, 1 to 10000, of whatever kind: what costs
	// nothing, such as a HEAD, is counted by what guards a registry from abuse. What is
	// beyond waits for up to 15 seconds, gets 503 then and is told to try again. Nobody
	// else waits. Callers without an organisation have the default. Default: 20.
	Rate int `yaml:"rate"`

	// Requests to one registry that may go out at once, 1 to 100000, after a while
	// with fewer than rate. Default: 500.
	Burst int `yaml:"burst"`

	// Bytes a second that come from registries for it, such as 10MiB; all its
	// downloads share them. At least 64KiB. 0: any number. Default: 0.
	Bandwidth Size `yaml:"bandwidth"`
}

// UsualLimits are the defaults.
func UsualLimits() Limits {
	return Limits{Requests: 256, Fills: 16, AnonymousShare: 0.25, Rate: 20, Burst: 500}
}

// inherit marks a grace that the file does not give.
const inherit time.Duration = -1

func (o *Organisation) setDefaults(string) {
	o.Limits = UsualLimits()
	o.Grace = inherit
}

// resolve fills in what comes from elsewhere: the cache's grace, absolute file
// names, the registries' own names instead of aliases.
func (o *Organisation) resolve(c *Config, in folder) {
	if o.Grace == inherit {
		o.Grace = c.Cache.Grace
	}
	for name, r := range o.Registries {
		r.resolve(name, false, in)
		o.Registries[name] = r
	}
	o.FleetKeyFile = in.absolute(o.FleetKeyFile)
	n := o.namesIn(c)
	for i := range o.Credentials {
		o.Credentials[i].Registry = n.resolve(o.Credentials[i].Registry)
		o.Credentials[i].resolve(in)
	}
}

// namesIn are what the organisation calls registries: as all do, and its own.
func (o *Organisation) namesIn(c *Config) *names {
	if len(o.Registries) == 0 {
		return c.names
	}
	n := c.names.with()
	quiet := checker{organisation: "-", names: c.names, c: c}
	quiet.registryNames(o.Registries, n, "")
	return n
}

// checkOrganisation checks o, as part of the main file or as a drop-in.
func (k *checker) checkOrganisation(name string, o *Organisation, path string) {
	k.organisation = name
	defer func() { k.organisation = "" }()
	if !ValidOrganisation(name) {
		k.errorf(path, "%s is no organisation's name: %s", quote(name), organisationForm)
		return
	}
	if k.names.knows(name) {
		k.errorf(path, "organisation %s is called like registry %s, and image names may begin with either: rename one", name, k.names.resolve(name))
	}
	k.reachableAs(name, o, path)
	k.tokens(name, o, dot(path, "tokens"))
	own := k.ownRegistries(o, dot(path, "registries"))
	k.credentials(o, own, dot(path, "credentials"))
	k.policy(&o.Policy, dot(path, "policy"), own)
	k.limits(&o.Limits, dot(path, "limits"))
	k.within(dot(path, "grace"), o.Grace, 0, maxGrace)
	if o.GraceIn(k.c) < o.Grace {
		k.warnf(dot(path, "grace"), "the main file's cache.grace is shorter, which holds: remove the key, or write less")
	}
	if o.FleetKeyFile != "" {
		k.ownFile(dot(path, "fleet_key_file"), o.FleetKeyFile)
	}
}

func (k *checker) ownRegistries(o *Organisation, path string) *names {
	if len(o.Registries) == 0 {
		return k.names
	}
	places := len(o.Registries)
	for _, r := range o.Registries {
		places += len(r.Mirrors)
	}
	if o.File != "" && places > mostEntries {
		k.errorf(path, "%d registries and mirrors are too many: an organisation's file may have %d of them: remove those that are not used, or have the operator put them into the main file", places, mostEntries)
	}
	own := k.names.with()
	if !k.foreign.Allow {
		k.errorf(path, "organisations may not bring registries to this node: remove it, or ask the operator for organisation_registries.allow")
	}
	k.registryNames(o.Registries, own, path)
	for _, name := range slices.Sorted(maps.Keys(o.Registries)) {
		r := o.Registries[name]
		k.registry(name, &r, key(path, name))
		k.ownName(name, &r, key(path, name))
	}
	return own
}

// ownName refuses a registry that is called like another one, where the main file's
// policy goes by names: what that allows at the other would be allowed here, and what it
// denies here would go by the other's name.
func (k *checker) ownName(name string, r *Registry, path string) {
	u, why := parseURL(r.Endpoint)
	rules := k.c.Policy.Allow != nil || k.c.Policy.Deny != nil || k.c.Policy.CooldownExcept != nil
	if !rules || why != "" {
		return
	}
	if named, why := parseURL(u.Scheme + "://" + name); why != "" || placeOf(named) != placeOf(u) {
		k.errorf(path+".endpoint", "the operator's policy goes by the names of registries, and %s is not where %s is: call this registry %s", quote(name), u.Host, quote(u.Host))
	}
}

func (k *checker) tokens(organisation string, o *Organisation, path string) {
	seen := map[string]bool{}
	for i, t := range o.Tokens {
		at := indexed(path, i)
		k.accountName(at+".name", t.Name, "in this organisation", seen)
		switch t.SHA256 {
		case Hash{}:
			k.errorf(at+".sha256", "the hash is missing: paste what berth token printed")
		case HashOf(""), HashOf("test"), HashOf("password"), HashOf(organisation):
			k.errorf(at+".sha256", "anyone would guess the token of this hash: make one with berth token")
		}
		if !t.NotAfter.IsZero() && t.NotAfter.Before(k.now) {
			k.warnf(at+".not_after", "the token has expired: remove it")
		}
	}
}

func (k *checker) limits(l *Limits, path string) {
	k.between(path+".requests", l.Requests, 1, 100000)
	k.between(path+".fills", l.Fills, 1, 10000)
	k.between(path+".rate", l.Rate, 1, 10000)
	k.between(path+".burst", l.Burst, 1, 100000)
	k.bandwidth(path+".bandwidth", l.Bandwidth)
	if !(l.AnonymousShare >= 0 && l.AnonymousShare <= 1) { // so written that NaN fails too
		k.errorf(path+".anonymous_share", "it is outside of 0 to 1: write a share, as in 0.25")
	}
}
