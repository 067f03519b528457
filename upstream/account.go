package upstream

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"berth/oci"

	"berth/auth/credential"
)

// RateLimit is what is known about one account's limit at one registry. What a
// registry never told is unknown, and not zero: Docker Hub tells unlimited
// accounts nothing.
type RateLimit struct {
	Registry string
	// Organisation is whose the account is; empty: this node's own, or nobody's.
	Organisation string
	// Account is its name; empty: no account at all.
	Account string
	// Limit and Remaining are pulls in a Window, as told at AsOf; nil and zero:
	// unknown.
	Limit, Remaining *int64
	Window           time.Duration
	AsOf             time.Time
	// Refills is when there will be more, as far as one can guess; zero: unknown.
	Refills time.Time
	// CoolDownUntil is until when the registry is not asked for manifests, or for
	// anything, as this account; zero: it is asked.
	CoolDownUntil time.Time
	// BreakerOpen says that the registry is in trouble, whoever asks.
	BreakerOpen bool
}

// lowShare is the share of a limit below which the log warns.
const lowShare = 0.2

// accounts are the limits and cool-downs of everyone who asks one registry.
// There are as many as the configuration has accounts, and nobody.
type accounts struct {
	registry string
	label    string // of the registry, in metrics
	now      func() time.Time
	log      *slog.Logger
	metrics  *Metrics
	coolDown func(organisation, account string, until time.Time)
	pulls    bool // the registry has a limit of pulls for each account, and for each address

	mu    sync.Mutex
	table map[accountKey]*account
	// node holds for everyone: the registry stopped this address.
	node coolDown
}

type accountKey struct{ organisation, name string }

// account is one in the table. A new secret may belong to another user of the
// registry: then all of it begins anew.
type account struct {
	fingerprint string

	told      toldLimit
	low       bool      // it was warned about
	fullest   time.Time // when the window began, as far as one saw it
	manifests coolDown  // holds for counted GETs only
	all       coolDown
}

// toldLimit is what headers say; zero: nothing.
type toldLimit struct {
	limit, remaining *int64
	window           time.Duration
	at               time.Time
}

func newAccounts(o *Options) *accounts {
	return &accounts{
		registry: o.Name, label: cmp.Or(o.Label, o.Name), now: o.Now, log: o.Logger, metrics: o.Metrics, coolDown: o.CoolDown, pulls: o.Type.TwoLimits,
		table: map[accountKey]*account{},
	}
}

// of is the account of cred, which may be nobody. Caller holds mu.
func (a *accounts) of(cred *credential.Credential) (*account, accountKey) {
	key, fingerprint := keyOf(cred), cred.Principal().Fingerprint
	known := a.table[key]
	if known == nil || known.fingerprint != fingerprint {
		known = &account{fingerprint: fingerprint}
		a.table[key] = known
	}
	return known, key
}

func keyOf(cred *credential.Credential) accountKey {
	if cred == nil {
		return accountKey{}
	}
	return accountKey{cred.Organisation, cred.Name}
}

// read takes what the headers of an answer say. No header means unknown: then
// the last value stays, or there is none.
func (a *accounts) read(cred *credential.Credential, h http.Header) {
	told := readLimit(h, a.now())
	if told.limit == nil && told.remaining == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	known, key := a.of(cred)
	known.learn(told)
	a.metrics.rateLimit(a.label, key, told)
	if told.remaining != nil && *told.remaining > 0 && known.manifests.emptied && a.believed(cred) {
		a.end(key, &known.manifests)
	}
	if low, news := known.runsLow(); news && low {
		a.log.Warn("little is left of a registry's pull limit", "registry", a.registry, "organisation", key.organisation, "account", key.name,
			"limit", *known.told.limit, "remaining", *known.told.remaining, "refills", known.refills())
	}
}

// believed says whether what headers say of a limit counts beyond being shown. Whoever owns a
// repository of a registry that passes on others' answers could say for all who share an
// account, or have none, how few pulls there are. One that has such a limit passes on none.
func (a *accounts) believed(cred *credential.Credential) bool {
	return a.pulls || !cred.Shared()
}

// learn merges what was told. That there is more left than before means that a
// window has begun.
func (k *account) learn(told toldLimit) {
	before := k.told
	k.told.at = told.at
	if told.limit != nil {
		k.told.limit, k.told.window = told.limit, told.window
	}
	if told.remaining != nil {
		k.told.remaining = told.remaining
		if before.remaining == nil || *told.remaining > *before.remaining {
			k.fullest = told.at
		}
	}
}

// runsLow says whether little is left, and whether that is news.
func (k *account) runsLow() (low, news bool) {
	t := k.told
	low = t.limit != nil && t.remaining != nil && float64(*t.remaining) < lowShare*float64(*t.limit)
	news = low != k.low
	k.low = low
	return low, news
}

// refills is when there will be more: what a 429 said, or else the end of the
// window, counted from when it was seen to begin.
func (k *account) refills() time.Time {
	switch {
	case !k.manifests.refills.IsZero():
		return k.manifests.refills
	case k.told.window > 0 && !k.fullest.IsZero() && k.told.remaining != nil && k.told.limit != nil && *k.told.remaining < *k.told.limit:
		return k.fullest.Add(k.told.window)
	}
	return time.Time{}
}

// readLimit reads "100;w=21600", as Docker Hub writes it.
func readLimit(h http.Header, now time.Time) toldLimit {
	l := toldLimit{at: now}
	value, parameters, _ := strings.Cut(h.Get("Ratelimit-Limit"), ";")
	l.limit = count(value)
	for p := range strings.SplitSeq(parameters, ";") {
		seconds, ok := strings.CutPrefix(strings.TrimSpace(p), "w=")
		if n := count(seconds); ok && n != nil {
			l.window = min(time.Duration(*n)*time.Second, maxWindow)
		}
	}
	value, _, _ = strings.Cut(h.Get("Ratelimit-Remaining"), ";")
	l.remaining = count(value)
	return l
}

// maxWindow bounds what a registry may say; six hours is the longest known.
const maxWindow = 31 * 24 * time.Hour

// count reads a number of pulls or seconds; nil: it is none.
func count(s string) *int64 {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return nil
	}
	signed := int64(n)
	return &signed
}

// anonymous is the limit of those without an account, and its window; nil: it is not
// known.
func (a *accounts) anonymous() (limit *int64, window time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.table[accountKey{}]
	if known == nil || !a.believed(nil) {
		return nil, usualWindow
	}
	return known.told.limit, cmp.Or(known.told.window, usualWindow)
}

// forget drops an account that the configuration no longer has.
func (a *accounts) forget(organisation, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.table, accountKey{organisation, name})
}

// rows are the accounts with something to tell.
func (a *accounts) rows(open bool) []RateLimit {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	var rows []RateLimit
	for key, k := range a.table {
		row := RateLimit{
			Registry: a.registry, Organisation: key.organisation, Account: key.name,
			Limit: k.told.limit, Remaining: k.told.remaining, Window: k.told.window, AsOf: k.told.at,
			CoolDownUntil: latest(now, k.manifests.until, k.all.until, a.node.until), BreakerOpen: open,
		}
		if r := k.refills(); r.After(now) {
			row.Refills = r
		}
		if row.Limit != nil || row.Remaining != nil || !row.CoolDownUntil.IsZero() {
			rows = append(rows, row)
		}
	}
	if until := latest(now, a.node.until); len(rows) == 0 && (open || !until.IsZero()) {
		rows = append(rows, RateLimit{Registry: a.registry, CoolDownUntil: until, BreakerOpen: open})
	}
	slices.SortFunc(rows, func(x, y RateLimit) int {
		return cmp.Or(cmp.Compare(x.Organisation, y.Organisation), cmp.Compare(x.Account, y.Account))
	})
	return rows
}

// latest is the latest of times that are still to come, or zero.
func latest(now time.Time, times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(now) && t.After(last) {
			last = t
		}
	}
	return last
}

// RateLimits says what is known about limits and trouble, a row for each account
// that there is something to say about, in the order of their names.
func (r *Registry) RateLimits() []RateLimit {
	return r.accounts.rows(r.Troubled())
}

// Forget drops what is known about an account that the configuration no longer
// has, and its series.
func (r *Registry) Forget(organisation, account string) {
	r.accounts.forget(organisation, account)
	r.metrics.forget(r.label, organisation, account)
}

// Trouble is why the registry, which fails for everybody, is not worth waiting for when
// there is another way to answer; nil: it is. Asking costs nothing.
func (s *source) Trouble(repo string) error {
	f, open := s.origin.trouble()
	if !open {
		return nil
	}
	return s.asker(nil, repo).remembered(f)
}

var _ interface {
	oci.Source
	Trouble(repo string) error
} = (*source)(nil)
