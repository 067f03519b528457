package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"berth/internal/descriptor"
	"berth/oci"
)

// Entry is one credential of the configuration.
type Entry struct {
	// Name is the account: what a caller writes behind the plus sign.
	Name string
	// Organisation is whose it is; empty for the registry's own, which serves
	// the shared principal.
	Organisation string
	// Registry is the canonical name, and Origin where that is reached.
	Registry string
	Origin   oci.Origin
	// Repositories limits it to what one of the patterns selects; empty: all.
	Repositories []string
	// Source has the secret.
	Source Source
}

// TableOptions are the ingredients of a Table.
type TableOptions struct {
	Entries []Entry
	// Key makes the fingerprints.
	Key Key
	// Before is the table that this one replaces. An Entry that has not changed,
	// with the same Source, goes on with the secret it had there: one that is
	// being replaced just now costs nobody an account. It may be nil.
	Before *Table
	// CheckEvery is how often a Source is asked again while there is traffic,
	// and so how long a changed secret may go unnoticed. If 0, a quarter second.
	CheckEvery time.Duration
	// Now is the clock. If nil, time.Now is used.
	Now func() time.Time
	// Metrics says which accounts have a secret. It may be nil.
	Metrics *Metrics
	// Logger hears about secrets that became unusable. If nil, nobody does.
	Logger *slog.Logger
}

// Table is the table of who has which account where. It does not change;
// a new configuration is a new one.
type Table struct {
	table map[place][]*entry
	// accounts has every account name of an organisation, at any registry.
	accounts map[account]bool
	entries  []*entry
}

type place struct{ organisation, registry string }

type account struct{ organisation, name string }

// NewTable checks the patterns and builds the table. It reads no secret:
// one that cannot be read fails the pulls that need it, and shows in Check.
func NewTable(o TableOptions) (*Table, error) {
	if o.CheckEvery == 0 {
		o.CheckEvery = 250 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Table{table: make(map[place][]*entry), accounts: make(map[account]bool)}
	for _, configured := range o.Entries {
		e, err := newEntry(configured, o)
		if err != nil {
			return nil, err
		}
		e.inherit(o.Before)
		at := place{e.Organisation, e.Registry}
		t.table[at] = append(t.table[at], e)
		t.accounts[account{e.Organisation, e.Name}] = true
		t.entries = append(t.entries, e)
	}
	return t, nil
}

// Lookup finds as whom organisation asks registry for repo. With an account,
// only the credentials of that name count; without, all of them. Of those that
// select repo the most specific one wins, as Pattern says.
//
// Nil, and no error, means the shared principal: the organisation has nothing for
// this repository. The shared principal's own credential is that of organisation "".
//
// Errors are *oci.Error: Denied for an account that the organisation does not
// have (one that it has, but at other registries only, is no error where it has
// none at all: a single login at this proxy serves every registry), and Caller
// with status 503 for a secret that cannot be read.
func (t *Table) Lookup(ctx context.Context, organisation, account, registry, repo string) (*Credential, error) {
	entries := t.table[place{organisation, registry}]
	if account != "" && !t.knows(entries, organisation, account) {
		return nil, unknownAccount(organisation, account, registry, entries)
	}
	e := best(entries, account, repo)
	if e == nil {
		return nil, nil //nolint:nilnil // nobody is a credential too: the shared principal
	}
	cred, err := e.current(ctx)
	if err != nil {
		return nil, unreadable(e, err)
	}
	return cred, nil
}

// Account is the credential of organisation for registry that is called account,
// whatever repositories it is for. Without an account it is the only one there
// is. Nil, and no error, where there is none. Errors are those of Lookup, and
// Denied where there are several and none was named.
func (t *Table) Account(ctx context.Context, organisation, account, registry string) (*Credential, error) {
	entries := t.table[place{organisation, registry}]
	if account == "" && len(entries) > 1 {
		return nil, &oci.Error{
			Class:   oci.Denied,
			Message: fmt.Sprintf("%s has several accounts for %s: add --account %s", Whose(organisation), registry, strings.Join(t.Accounts(organisation, registry), " or --account ")),
		}
	}
	if account != "" {
		entries = slices.DeleteFunc(slices.Clone(entries), func(e *entry) bool { return e.Name != account })
	}
	switch {
	case len(entries) == 0 && account != "":
		return nil, unknownAccount(organisation, account, registry, t.table[place{organisation, registry}])
	case len(entries) == 0:
		return nil, nil //nolint:nilnil // nobody is a credential too: the shared principal
	}
	cred, err := entries[0].current(ctx)
	if err != nil {
		return nil, unreadable(entries[0], err)
	}
	return cred, nil
}

// Accounts are the names of those that organisation has for registry.
func (t *Table) Accounts(organisation, registry string) (names []string) {
	for _, e := range t.table[place{organisation, registry}] {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (t *Table) knows(entries []*entry, organisation, name string) bool {
	if len(entries) == 0 {
		return t.accounts[account{organisation, name}]
	}
	return slices.ContainsFunc(entries, func(e *entry) bool { return e.Name == name })
}

// best is the most specific entry for repo, the first among equals.
func best(entries []*entry, name, repo string) *entry {
	var found *entry
	var rank rank
	for _, e := range entries {
		if name != "" && e.Name != name {
			continue
		}
		if r, ok := e.match(repo); ok && (found == nil || r.above(rank)) {
			found, rank = e, r
		}
	}
	return found
}

// Check reads every secret and says which cannot be used, for checking a
// configuration and for the status page.
func (t *Table) Check(ctx context.Context) []error {
	problems := make([]error, len(t.entries))
	var g errgroup.Group
	g.SetLimit(readAtOnce)
	for i, e := range t.entries {
		g.Go(func() error {
			if _, err := e.read(ctx); err != nil {
				problems[i] = &Unusable{e.Organisation, e.Name, e.Registry, err}
			}
			return nil
		})
	}
	_ = g.Wait() // there is none
	return slices.DeleteFunc(problems, func(err error) bool { return err == nil })
}

// Unusable is an account whose secret cannot be used.
type Unusable struct {
	Organisation, Account, Registry string
	Err                             error
}

func (u *Unusable) Error() string {
	account := Called(u.Organisation, u.Account, u.Registry)
	if u.Organisation != "" || u.Account != Shared {
		account += fmt.Sprintf(" of %s for %s", Whose(u.Organisation), u.Registry)
	}
	return fmt.Sprintf("%s: %v", account, u.Err)
}

// Unwrap is why.
func (u *Unusable) Unwrap() error { return u.Err }

// Renew has helpers asked again for what may be another secret by now. It asks nobody.
func (t *Table) Renew() {
	for _, e := range t.entries {
		if s := e.state.Load(); s != nil && s.cred != nil && s.cred.renew != nil {
			s.cred.renew()
		}
	}
}

// readAtOnce is how many secrets are read at once, so that one program that takes its
// time holds up nobody.
const readAtOnce = 8

// Trouble is why the secret of an account could not be used when it was last read,
// and whether the one before it serves; nil: it could. It reads nothing.
func (t *Table) Trouble(organisation, account, registry string) (oldServes bool, err error) {
	for _, e := range t.table[place{organisation, registry}] {
		if s := e.state.Load(); e.Name == account && s != nil && s.err != nil {
			return s.cred != nil, s.err
		}
	}
	return false, nil
}

// Renewed says whether an account has another secret than it had when it was first
// read. It reads nothing.
func (t *Table) Renewed(organisation, account, registry string) bool {
	for _, e := range t.table[place{organisation, registry}] {
		if s := e.state.Load(); e.Name == account && s != nil {
			return s.renewed
		}
	}
	return false
}

func unknownAccount(organisation, account, registry string, entries []*entry) *oci.Error {
	has := "none"
	if len(entries) > 0 {
		names := make([]string, len(entries))
		for i, e := range entries {
			names[i] = e.Name
		}
		slices.Sort(names)
		has = strings.Join(slices.Compact(names), ", ")
	}
	return &oci.Error{
		Class: oci.Denied,
		Message: oci.OneLine(fmt.Sprintf("%s has no account %.60q for %s (it has: %s): log in again with one of these behind the plus sign, or without any",
			Whose(organisation), account, registry, has), 600),
	}
}

func unreadable(e *entry, err error) *oci.Error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return oci.AsError(err)
	}
	if descriptor.Exhausted(err) {
		return descriptor.Error(err)
	}
	return &oci.Error{
		Class:  oci.Caller,
		Status: http.StatusServiceUnavailable,
		Code:   oci.CodeUnknown,
		Message: fmt.Sprintf("%s: the secret of %s for %s cannot be read on this node: whoever runs the node finds the reason in its log",
			Whose(e.Organisation), Called(e.Organisation, e.Name, e.Registry), e.Registry),
		Err: err,
	}
}

// Shared is what the node's own account at a registry is called, in metrics and status.
const Shared = "shared"

// Called names an account in a message. The node's own was given no name, so there it goes
// by where it stands in the configuration.
func Called(organisation, name, registry string) string {
	if organisation == "" && name == Shared {
		return "the account under registries." + registry + ".credential"
	}
	return fmt.Sprintf("account %q", name)
}

// Whose names the owner of an account at the start of a message.
func Whose(organisation string) string {
	if organisation == "" {
		return "this node"
	}
	return "organisation " + organisation
}
