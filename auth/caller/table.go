package caller

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"berth/oci"
)

// Organisation is who may call, and with which tokens.
type Organisation struct {
	Name   string
	Tokens []Token
	// Broken says that its configuration cannot be used, so that nobody can
	// tell which tokens are good: its callers get 503 and try again, where a
	// 401 would make them throw their login away.
	Broken bool
}

// Token is one way for an organisation's callers to prove who they are.
type Token struct {
	Name string
	// SHA256 is HashToken's.
	SHA256 string
	// NotAfter is when it ends. Zero: never.
	NotAfter time.Time
	// ForHeader says that it stands in a header of a client's configuration and not
	// in a login: it is good from this machine only, and in X-Meta-Berth no other is.
	ForHeader bool
}

// Table tells who is calling, for listeners that ask. It does not change; a
// new configuration is a new one.
type Table struct {
	organisations map[string]*organisation
	nobody        *organisation // stands in for one that is not there
	most          int           // tokens that one organisation has
	broken        bool          // there is one whose tokens are not known
	now           func() time.Time
}

type organisation struct {
	name   string
	tokens []token
}

type token struct {
	name     string
	sum      [sha256.Size]byte
	notAfter time.Time
	header   bool
}

// NewTable checks every hash. If now is nil, time.Now is used.
func NewTable(all []Organisation, now func() time.Time) (*Table, error) {
	if now == nil {
		now = time.Now
	}
	c := &Table{organisations: make(map[string]*organisation, len(all)), nobody: nobody(), most: 1, now: now}
	for _, o := range all {
		if c.organisations[o.Name] != nil {
			return nil, fmt.Errorf("organisation %s is there twice", o.Name)
		}
		known := &organisation{name: o.Name}
		c.broken = c.broken || o.Broken
		c.most = max(c.most, len(o.Tokens))
		for _, t := range o.Tokens {
			sum, err := parseHash(o.Name, t.SHA256)
			if err != nil {
				return nil, fmt.Errorf("token %q of organisation %s: %w", t.Name, o.Name, err)
			}
			known.tokens = append(known.tokens, token{name: t.Name, sum: sum, notAfter: t.NotAfter, header: t.ForHeader})
		}
		c.organisations[o.Name] = known
	}
	return c, nil
}

// Identify says who sent r, by its Authorization header (Basic, the user being
// organisation or organisation+account, the password one of the organisation's tokens),
// by X-Meta-Berth (ORGANISATION[+ACCOUNT]:TOKEN, which the Docker CLI adds where its
// configuration says so), or by both, if they agree. One check serves all of them.
//
// Errors are *oci.Error of class Caller: 401 for missing and wrong credentials,
// alike for an unknown organisation and a wrong token, and 403 for a wrong login that is
// evidently some registry's. Where an organisation is broken, all that would be 401 for a
// login is 503: nobody can tell whether it is good, and a stranger must not learn which
// organisation that is. The challenge that belongs to a 401 is the caller's to add.
func (c *Table) Identify(r *http.Request) (Caller, error) {
	login, meta := r.Header["Authorization"], r.Header[metaHeader]
	if len(login) > 1 || len(meta) > 1 {
		return Caller{}, unproven("a login came twice in one request: send one, and one X-Meta-Berth at most")
	}
	if len(login) == 1 && (login[0] == "" || login[0] == emptyBasic) {
		login = nil
	}
	switch {
	case len(login)+len(meta) == 0:
		return Caller{}, unproven("this node asks who is pulling: docker login here with the organisation as user name and one of its tokens as password")
	case len(meta) == 0:
		return c.byLogin(r, login[0])
	case len(login) == 0:
		return c.byMeta(r, meta[0])
	}
	one, err := c.byLogin(r, login[0])
	if err != nil {
		return Caller{}, err
	}
	other, err := c.byMeta(r, meta[0])
	if err != nil {
		return Caller{}, err
	}
	if one.Organisation != other.Organisation || one.Account != other.Account {
		return Caller{}, unproven("the login and X-Meta-Berth disagree about who is pulling: take one of them away")
	}
	if one.Identity == HostsTOML {
		one.Identity = HostsMeta
	} else {
		one.Identity = LoginMeta
	}
	return one, nil
}

func (c *Table) byLogin(r *http.Request, header string) (Caller, error) {
	var buf [maxBasic]byte
	b, ok := parseBasic(header, &buf)
	switch {
	case !ok && b.foreign():
		return Caller{}, notOurs(r, &b)
	case !ok:
		return Caller{}, unproven("the login cannot be read: docker login here with the organisation as user name and one of its tokens as password")
	}
	return c.check(r, &b, Login)
}

func (c *Table) byMeta(r *http.Request, header string) (Caller, error) {
	var buf [maxBasic]byte
	n := copy(buf[:], header)
	b, ok := cutLogin(buf[:n])
	if !ok || n < len(header) {
		return Caller{}, unproven("X-Meta-Berth cannot be read: write ORGANISATION:TOKEN or ORGANISATION+ACCOUNT:TOKEN")
	}
	return c.check(r, &b, MetaBerth)
}

// check is the one check, whichever form came.
func (c *Table) check(r *http.Request, b *basic, came Identity) (Caller, error) {
	o, ok := c.organisations[string(b.organisation)]
	if !ok || len(o.tokens) == 0 {
		o = c.nobody
	}
	found := o.prove(sha256.Sum256(b.password), c.most)
	switch {
	case found == nil && c.broken && !b.foreign():
		return Caller{}, undecided()
	case found == nil:
		return Caller{}, notOurs(r, b)
	case !found.notAfter.IsZero() && c.now().After(found.notAfter):
		return Caller{}, unproven(fmt.Sprintf("organisation %s: its token %q for this node ended on %s: log in with a newer one", o.name, found.name, found.notAfter.Format(time.DateOnly)))
	case found.header && !fromHere(r):
		return Caller{}, unproven(fmt.Sprintf("organisation %s: its token %q is for headers, which are good on the node itself only: log in with a token that is for logins", o.name, found.name))
	case came == MetaBerth && !found.header:
		return Caller{}, unproven(fmt.Sprintf("organisation %s: its token %q is for logins, and clients show X-Meta-Berth to other registries too: give it a token with for: header", o.name, found.name))
	case came == Login && found.header:
		came = HostsTOML
	}
	return Caller{Organisation: o.name, Account: string(b.account), TokenName: found.name, Identity: came}, nil
}

// fromHere says that r came from this machine. A header of a client's configuration may
// be shown to other hosts, which could then use it over the network.
func fromHere(r *http.Request) bool {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// ours is what a login here is made of.
const ours = "the user name is the organisation (or organisation+account), the password one of its tokens for this node"

// askOurWay is what to do where a client hands on what it has for the registry.
const askOurWay = "this node asks the registry with the organisation's own account, and takes no pull secret of Kubernetes: give the organisation that account on this node, and the client one of its tokens (berth setup containerd --write --organisation ORGANISATION --token-file FILE)"

// notOurs is the refusal of a login that proves nobody. What is evidently a registry's
// gets 403, whose text dockerd and containerd show; that of a 401 they hide.
func notOurs(r *http.Request, b *basic) *oci.Error {
	what := ours
	if r.URL != nil && strings.Contains(r.URL.RawQuery, "ns=") {
		// So a client asks a mirror, and containerd then sends what it has for the registry.
		what = askOurWay
	}
	if b.foreign() {
		return &oci.Error{Class: oci.Caller, Status: http.StatusForbidden, Code: oci.CodeDenied, Message: "this is a login for a registry: " + what}
	}
	return unproven("unknown organisation or wrong token: " + what)
}

// emptyBasic is neither a user name nor a password: what podman sends where a
// login is asked for and there is none.
const emptyBasic = "Basic Og=="

// nobody stands in for an organisation that is not there, so that looking for
// its token takes as long. No hash is all zeros in practice.
func nobody() *organisation { return &organisation{tokens: make([]token, 1)} }

// prove makes so many comparisons, at least one with each token, whichever matched: how
// long it takes says nothing, neither about a token nor about how many there are.
func (o *organisation) prove(sum [sha256.Size]byte, comparisons int) *token {
	match := -1
	for n := range comparisons {
		i := n % len(o.tokens)
		same := subtle.ConstantTimeCompare(o.tokens[i].sum[:], sum[:])
		match = subtle.ConstantTimeSelect(same, i, match)
	}
	if match < 0 || o.name == "" {
		return nil
	}
	return &o.tokens[match]
}

func unproven(message string) *oci.Error {
	return &oci.Error{Class: oci.Caller, Message: message}
}

// undecided is what a login is told that may be good, or may be wrong.
func undecided() *oci.Error {
	return &oci.Error{
		Class: oci.Caller, Status: http.StatusServiceUnavailable, Code: oci.CodeUnknown, RetryAfter: 10 * time.Second,
		Message: "unknown organisation or wrong token, or one whose configuration on this node cannot be read, for which whoever runs the node finds the reason in its log: " + ours,
	}
}

// Broken is what callers at a listener of one organisation are told when its
// configuration cannot be read: to try again, not that they are somebody else.
func Broken(organisation string) *oci.Error {
	return &oci.Error{
		Class:  oci.Caller,
		Status: http.StatusServiceUnavailable,
		Code:   oci.CodeUnknown,
		Message: fmt.Sprintf("organisation %s: its configuration on this node cannot be read; whoever runs the node finds the reason in its log",
			organisation),
		RetryAfter: 10 * time.Second,
	}
}
