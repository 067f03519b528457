package credential

import (
	"cmp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the gauges about credentials, one set for all authorities. A nil
// *Metrics measures nothing. Labels come from the configuration.
type Metrics struct {
	ok       *prometheus.GaugeVec
	coolDown *prometheus.GaugeVec

	mu sync.Mutex
	// refused are the accounts whose cool-down is that of a refused secret, with
	// the secret's version: the one after it has never been left alone.
	refused map[metered]string
	// shown is what registries said of accounts, and secret the version of what
	// an account has now, empty where its secret is gone: an answer to another one
	// that is still on its way says nothing about it.
	shown  map[metered]verdict
	secret map[metered]string
	// coolDowns are until when accounts are left alone.
	coolDowns map[Account]time.Time
}

// Account names one at a registry. Nobody's name is -.
type Account struct{ Organisation, Registry, Name string }

// Standing is what a registry last thought of an account.
type Standing struct {
	// Shown says that it has seen the secret that the account has now, or that there
	// is none; OK, that it took it.
	Shown, OK bool
	// CoolDownUntil is until when it is not asked as this account; zero: it is asked.
	CoolDownUntil time.Time
}

// Standings are those of all accounts that there is something to say about.
func (m *Metrics) Standings() map[Account]Standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[Account]Standing{}
	for k, v := range m.shown {
		all[k.named()] = Standing{Shown: true, OK: v.ok == 1}
	}
	for k, fingerprint := range m.secret {
		if fingerprint == "" {
			all[k.named()] = Standing{Shown: true}
		}
	}
	for account, until := range m.coolDowns {
		s := all[account]
		s.CoolDownUntil = until
		all[account] = s
	}
	return all
}

// verdict is what a registry thought of a secret.
type verdict struct {
	version, fingerprint string
	ok                   float64
}

// metered is an account as its series are labelled.
type metered struct{ organisation, registry, account string }

// named has - for those without a name.
func (k metered) named() Account {
	return Account{cmp.Or(k.organisation, "-"), k.registry, cmp.Or(k.account, "-")}
}

// NewMetrics registers the gauges with r.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	labels := []string{"organisation", "registry", "account"}
	m := &Metrics{
		refused: map[metered]string{}, shown: map[metered]verdict{}, secret: map[metered]string{}, coolDowns: map[Account]time.Time{},
		ok: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_credential_ok",
			Help: "Whether the registry took the credential when it was last shown: 1 or 0; 0 also where its secret cannot be used.",
		}, labels),
		coolDown: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_cooldown_until_timestamp_seconds",
			Help: "Until when the registry is not asked with this credential, or by this node without one (-), as a Unix time; 0: it is asked.",
		}, labels),
	}
	for _, c := range []prometheus.Collector{m.ok, m.coolDown} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// CredentialOK says what the registry last thought of cred. Nobody has no series.
func (m *Metrics) CredentialOK(cred *Credential, ok bool) {
	if m == nil || cred == nil {
		return
	}
	value := 0.0
	if ok {
		value = 1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k := accountOf(cred)
	if now, known := m.secret[k]; known && now != cred.Version {
		return
	}
	m.shown[k] = verdict{cred.Version, cred.Fingerprint, value}
	m.ok.WithLabelValues(series(cred)...).Set(value)
	if old, known := m.refused[k]; ok && known && old != cred.Version {
		m.set(k, time.Time{})
	}
}

// usable says which secret an account has now. What the registry thought of another
// one says nothing about it: then there is no series until it is shown.
func (m *Metrics) usable(cred *Credential) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k := accountOf(cred)
	m.secret[k] = cred.Version
	// What helpers say changes by itself: one that was taken makes the next one good,
	// until it has been shown.
	if v, known := m.shown[k]; known && (v.version == cred.Version || v.ok == 1 && v.fingerprint == cred.Fingerprint) {
		m.ok.WithLabelValues(series(cred)...).Set(v.ok)
		return
	}
	delete(m.shown, k)
	m.ok.DeleteLabelValues(series(cred)...)
	if old, known := m.refused[k]; known && old != cred.Version {
		m.set(k, time.Time{})
	}
}

// unusable says that an account has no secret.
func (m *Metrics) unusable(organisation, registry, account string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secret[metered{organisation, registry, account}] = ""
	m.ok.WithLabelValues(series(&Credential{Organisation: organisation, Registry: registry, Name: account})...).Set(0)
}

// CoolDown says until when cred is left alone, since it was refused; the zero
// time ends it.
func (m *Metrics) CoolDown(cred *Credential, until time.Time) {
	if m == nil || cred == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(accountOf(cred), until)
	if !until.IsZero() {
		m.refused[accountOf(cred)] = cred.Version
	}
}

// CoolDownOf says until when an account is left alone, whatever its secret.
// Empty names are everyone at the registry, or nobody's account.
func (m *Metrics) CoolDownOf(organisation, registry, account string, until time.Time) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(metered{organisation, registry, account}, until)
}

// set has the gauge say until, and forgets whose it was. Caller holds mu.
func (m *Metrics) set(k metered, until time.Time) {
	delete(m.refused, k)
	value := 0.0
	if !until.IsZero() {
		value = float64(until.UnixMilli()) / 1000
		m.coolDowns[k.named()] = until
	} else {
		delete(m.coolDowns, k.named())
	}
	if k.account == "" {
		k.account = "-"
	}
	m.coolDown.WithLabelValues(series(&Credential{Organisation: k.organisation, Registry: k.registry, Name: k.account})...).Set(value)
}

// Forget drops the series of a credential that the configuration no longer has.
func (m *Metrics) Forget(organisation, registry, account string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k := metered{organisation, registry, account}
	delete(m.refused, k)
	delete(m.shown, k)
	delete(m.secret, k)
	delete(m.coolDowns, k.named())
	labels := series(&Credential{Organisation: organisation, Registry: registry, Name: account})
	m.ok.DeleteLabelValues(labels...)
	m.coolDown.DeleteLabelValues(labels...)
}

func accountOf(cred *Credential) metered {
	return metered{cred.Organisation, cred.Registry, cred.Name}
}

func series(cred *Credential) []string {
	organisation := cred.Organisation
	if organisation == "" {
		organisation = "-"
	}
	return []string{organisation, cred.Registry, cred.Name}
}
