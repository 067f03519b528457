package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"syscall"
	"time"

	"berth/internal/descriptor"
	"berth/internal/hung"
)

// entry is an Entry with its secret as last read.
type entry struct {
	Entry

	patterns []Pattern
	key      Key
	every    time.Duration
	metrics  *Metrics
	now      func() time.Time
	log      *slog.Logger

	reading chan struct{} // has room for the one who asks the source
	state   atomic.Pointer[state]
}

// state is what the source said last. Cred is the last good answer, err the
// last one's error; both for a while after a good secret was replaced by a bad one.
type state struct {
	cred    *Credential
	login   Login
	err     error
	checked time.Time
	// bad is since when there is an error; zero: there is none.
	bad time.Time
	// renewed: it is another secret than one before it.
	renewed bool
}

const (
	// slipFor is how long the secret from before serves when its file is not there,
	// is empty, half-written or open to others: whoever replaces a file may take it
	// away first, or write it before its mode. Then the account has none: taking the
	// file away is how a platform ends an account.
	slipFor = 30 * time.Second
	// troubleFor is that where nothing was learned about the secret: a program that
	// fails, a disk that hangs, or a node out of memory. What helpers say lives for an hour at least.
	troubleFor = time.Hour
)

// unlearned is an error of a Source that says nothing about the secret itself.
type unlearned struct{ error }

// Unwrap gives the cause.
func (u unlearned) Unwrap() error { return u.error }

// outlives says for how long a secret serves after err came in its place.
func outlives(err error) time.Duration {
	if _, ok := errors.AsType[unlearned](err); ok {
		return troubleFor
	}
	if _, ok := errors.AsType[*hung.Error](err); ok || errors.Is(err, syscall.ENOMEM) {
		return troubleFor
	}
	return slipFor
}

func newEntry(configured Entry, o TableOptions) (*entry, error) {
	if configured.Source == nil {
		return nil, fmt.Errorf("account %q of %s for %s has no source for its secret", configured.Name, Whose(configured.Organisation), configured.Registry)
	}
	e := &entry{Entry: configured, reading: make(chan struct{}, 1), key: o.Key, every: o.CheckEvery, metrics: o.Metrics, now: o.Now, log: o.Logger}
	for _, s := range configured.Repositories {
		p, err := ParsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("account %q of %s for %s: %w", configured.Name, Whose(configured.Organisation), configured.Registry, err)
		}
		e.patterns = append(e.patterns, p)
	}
	return e, nil
}

// inherit takes over what the same entry of an earlier table knew. It counts as
// old: the next look-up asks the source, as it does for a new entry.
func (e *entry) inherit(before *Table) {
	if before == nil {
		return
	}
	for _, old := range before.table[place{e.Organisation, e.Registry}] {
		if old.Name != e.Name || old.Origin != e.Origin || !sameSource(old.Source, e.Source) {
			continue
		}
		if s := old.state.Load(); s != nil {
			e.state.Store(s.old())
		}
		return
	}
}

// sameSource says whether a and b are one. Functions cannot be compared, and are not.
func sameSource(a, b Source) bool {
	t := reflect.TypeOf(a)
	return t == reflect.TypeOf(b) && t.Comparable() && a == b
}

// match says whether repo is selected, and by how specific a pattern.
func (e *entry) match(repo string) (best rank, ok bool) {
	if len(e.patterns) == 0 {
		return rank{open: 1}, true // that of "**"
	}
	for _, p := range e.patterns {
		if p.Match(repo) && (!ok || p.rank.above(best)) {
			best, ok = p.rank, true
		}
	}
	return best, ok
}

// current is the credential as of a moment ago. Whoever finds it too old asks
// the source; the others meanwhile go on with what is known.
func (e *entry) current(ctx context.Context) (*Credential, error) {
	s := e.state.Load()
	if s != nil && e.fresh(s) {
		return s.result()
	}
	select {
	case e.reading <- struct{}{}:
	default:
		if s != nil && !s.expired(e.now()) {
			return s.result()
		}
		if err := e.turn(ctx); err != nil {
			return nil, err
		}
	}
	defer e.release()
	if s := e.state.Load(); s != nil && e.fresh(s) {
		return s.result()
	}
	return e.refresh(ctx).result()
}

// turn waits until nobody asks the source. Call release.
func (e *entry) turn(ctx context.Context) error {
	select {
	case e.reading <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry) release() { <-e.reading }

// read asks the source now and gives its error even where an older secret
// still serves.
func (e *entry) read(ctx context.Context) (*Credential, error) {
	if err := e.turn(ctx); err != nil {
		if s := e.state.Load(); s != nil {
			return s.cred, s.err
		}
		return nil, err
	}
	defer e.release()
	s := e.refresh(ctx)
	return s.cred, s.err
}

func (e *entry) fresh(s *state) bool {
	now := e.now()
	return now.Sub(s.checked) < e.every && !s.expired(now)
}

// old is a copy of s that the next look-up takes for too old, so that the source is asked.
func (s *state) old() *state {
	again := *s
	again.checked = time.Time{}
	return &again
}

func (s *state) result() (*Credential, error) {
	if s.cred != nil {
		return s.cred, nil
	}
	return nil, s.err
}

// refresh runs under reading. A secret that turned bad replaces a good one only
// when it has been bad for a while: see outlives.
func (e *entry) refresh(ctx context.Context) *state {
	old := e.state.Load()
	login, err := e.Source.Login(ctx)
	if err == nil && login.Password.Empty() {
		err = errors.New("the secret is empty")
	}
	if err != nil && (ctx.Err() != nil || descriptor.Exhausted(err)) {
		// This caller left, or no file can be opened: that says nothing about the secret.
		if old != nil && !old.expired(e.now()) {
			return old
		}
		return &state{err: err}
	}
	var s *state
	if err != nil {
		s = failed(old, err, e.now())
	} else {
		s = e.taken(old, login)
	}
	e.report(old, s)
	e.state.Store(s)
	return s
}

// failed is the state after the source gave err, at now.
func failed(old *state, err error, now time.Time) *state {
	s := &state{err: err, checked: now, bad: now}
	if old == nil {
		return s
	}
	if old.err != nil {
		s.bad = old.bad
	}
	s.login, s.renewed = old.login, old.renewed
	if now.Sub(s.bad) < outlives(err) && !old.expired(now) {
		s.cred = old.cred
	}
	return s
}

// taken is the state after the source gave login.
func (e *entry) taken(old *state, login Login) *state {
	s := &state{login: login, checked: e.now()}
	if old != nil && old.cred != nil && old.login.equal(login) {
		s.cred, s.renewed = old.cred, old.renewed
		return s
	}
	s.cred = e.credential(login)
	if old != nil { // what helpers say is new all the time
		had := !old.login.Password.Empty() && login.Entry == ""
		s.renewed = old.renewed || had && !old.login.equal(login)
	}
	return s
}

func (e *entry) credential(l Login) *Credential {
	c := &Credential{Name: e.Name, Organisation: e.Organisation, Registry: e.Registry, Username: l.Username, Password: l.Password}
	c.Version, c.until = e.key.Fingerprint(e.Origin, l.Username.Reveal(), l.Password), l.Until
	c.Fingerprint = c.Version
	if c.entry = l.Entry; l.Entry != "" {
		c.Fingerprint = e.key.entryFingerprint(e.Origin, l.Username.Reveal(), l.Entry)
	}
	if r, ok := e.Source.(renewer); ok && l.Entry != "" {
		c.renew = func() bool { return r.Renew(l.Password) && e.doubt() }
	}
	return c
}

// expired says that the secret has ended by now.
func (s *state) expired(now time.Time) bool {
	return s.cred != nil && !s.cred.until.IsZero() && !now.Before(s.cred.until)
}

// doubt has the next look-up ask the source.
func (e *entry) doubt() bool {
	if s := e.state.Load(); s != nil {
		e.state.CompareAndSwap(s, s.old())
	}
	return true
}

// report has the metrics say what the source said, and the log when a secret turns bad,
// and when it is good again.
func (e *entry) report(old, now *state) {
	switch {
	case now.cred == nil:
		e.metrics.unusable(e.Organisation, e.Registry, e.Name)
	case old == nil || old.cred == nil || old.cred.Version != now.cred.Version:
		e.metrics.usable(now.cred)
	}
	attrs := []any{slog.String("organisation", e.Organisation), slog.String("registry", e.Registry), slog.String("account", e.Name)}
	was := ""
	if old != nil && old.err != nil {
		was = old.err.Error()
	}
	switch {
	case now.err != nil && (now.err.Error() != was || old.cred != nil && now.cred == nil):
		e.log.Error("a secret cannot be used", append(attrs, slog.Bool("old_one_serves", now.cred != nil), slog.Any("error", now.err))...)
	case now.err == nil && was != "":
		e.log.Info("a secret can be used again", attrs...)
	case old != nil && old.cred != nil && now.cred != nil && now.cred.Version != old.cred.Version:
		e.log.Info("a secret has changed", attrs...)
	}
}
