package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/descriptor"
)

// entry is an Entry with its secret as last read.
type entry struct {
	Entry

	patterns []Pattern
	key      Key
	every    time.Duration
	now      func() time.Time
	log      *slog.Logger

	reading sync.Mutex // held by the one who asks the source
	state   atomic.Pointer[state]
}

// state is what the source said last. Cred is the last good answer, err the
// last one's error; both when a good secret was replaced by a bad one.
type state struct {
	cred    *Credential
	login   Login
	err     error
	checked time.Time
}

func newEntry(configured Entry, o CredentialsOptions) (*entry, error) {
	if configured.Source == nil {
		return nil, fmt.Errorf("account %q of %s for %s has no source for its secret", configured.Name, whose(configured.Organisation), configured.Registry)
	}
	e := &entry{Entry: configured, key: o.Key, every: o.CheckEvery, now: o.Now, log: o.Logger}
	for _, s := range configured.Repositories {
		p, err := ParsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("account %q of %s for %s: %w", configured.Name, whose(configured.Organisation), configured.Registry, err)
		}
		e.patterns = append(e.patterns, p)
	}
	return e, nil
}

// inherit takes over what the same entry of an earlier table knew. It counts as
// old: the next look-up asks the source, as it does for a new entry.
func (e *entry) inherit(before *Credentials) {
	if before == nil {
		return
	}
	for _, old := range before.table[place{e.Organisation, e.Registry}] {
		if old.Name != e.Name || old.Origin != e.Origin || !sameSource(old.Source, e.Source) {
			continue
		}
		if s := old.state.Load(); s != nil {
			e.state.Store(&state{cred: s.cred, login: s.login, err: s.err})
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
		return everything(), true
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
	if s := e.state.Load(); s != nil && (e.fresh(s) || !e.reading.TryLock()) {
		return s.result()
	} else if s == nil {
		e.reading.Lock()
	}
	defer e.reading.Unlock()
	if s := e.state.Load(); s != nil && e.fresh(s) {
		return s.result()
	}
	return e.refresh(ctx).result()
}

// read asks the source now and gives its error even where an older secret
// still serves.
func (e *entry) read(ctx context.Context) (*Credential, error) {
	e.reading.Lock()
	defer e.reading.Unlock()
	s := e.refresh(ctx)
	return s.cred, s.err
}

func (e *entry) fresh(s *state) bool { return e.now().Sub(s.checked) < e.every }

func (s *state) result() (*Credential, error) {
	if s.cred != nil {
		return s.cred, nil
	}
	return nil, s.err
}

// refresh runs under reading. A secret that turned bad (a half-written file,
// one with loose rights) does not replace a good one: the node would lose an
// account over a slip of the hand. To end an account, take it out of the
// configuration.
func (e *entry) refresh(ctx context.Context) *state {
	old := e.state.Load()
	login, err := e.Source.Login(ctx)
	if err == nil && login.Password.Empty() {
		err = errors.New("the secret is empty")
	}
	if err != nil && (ctx.Err() != nil || descriptor.Exhausted(err)) {
		// This caller left, or no file can be opened: that says nothing about the secret.
		if old != nil {
			return old
		}
		return &state{err: err}
	}
	s := &state{err: err, checked: e.now()}
	switch {
	case err != nil && old != nil:
		s.cred, s.login = old.cred, old.login
	case err == nil && old != nil && old.cred != nil && old.login.equal(login):
		s.cred, s.login = old.cred, login
	case err == nil:
		s.cred, s.login = e.credential(login), login
	}
	e.report(old, s)
	e.state.Store(s)
	return s
}

func (e *entry) credential(l Login) *Credential {
	c := &Credential{Name: e.Name, Organisation: e.Organisation, Registry: e.Registry, Username: l.Username, Password: l.Password}
	if l.Entry != "" {
		c.Fingerprint = e.key.EntryFingerprint(e.Origin, l.Entry)
	} else {
		c.Fingerprint = e.key.Fingerprint(e.Origin, l.Username.Reveal(), l.Password)
	}
	if r, ok := e.Source.(renewer); ok && l.Entry != "" {
		c.renew = func() bool { return r.Renew(l.Password) && e.doubt() }
	}
	return c
}

// doubt has the next look-up ask the source.
func (e *entry) doubt() bool {
	if s := e.state.Load(); s != nil {
		e.state.CompareAndSwap(s, &state{cred: s.cred, login: s.login, err: s.err})
	}
	return true
}

// report logs when a secret turns bad, and when it is good again.
func (e *entry) report(old, now *state) {
	attrs := []any{slog.String("organisation", e.Organisation), slog.String("registry", e.Registry), slog.String("account", e.Name)}
	was := ""
	if old != nil && old.err != nil {
		was = old.err.Error()
	}
	switch {
	case now.err != nil && now.err.Error() != was:
		e.log.Error("a secret cannot be used", append(attrs, slog.Bool("old_one_serves", now.cred != nil), slog.Any("error", now.err))...)
	case now.err == nil && was != "":
		e.log.Info("a secret can be used again", attrs...)
	case old != nil && old.cred != nil && now.cred != old.cred:
		e.log.Info("a secret has changed", attrs...)
	}
}
