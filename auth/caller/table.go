package caller

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
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
}

// Table tells who is calling, for listeners that ask. It does not change; a
// new configuration is a new one.
type Table struct {
	organisations map[string]*organisation
	now           func() time.Time
}

type organisation struct {
	name   string
	broken bool
	tokens []token
}

type token struct {
	name     string
	sum      [sha256.Size]byte
	notAfter time.Time
}

// NewTable checks every hash. If now is nil, time.Now is used.
func NewTable(all []Organisation, now func() time.Time) (*Table, error) {
	if now == nil {
		now = time.Now
	}
	c := &Table{organisations: make(map[string]*organisation, len(all)), now: now}
	for _, o := range all {
		if c.organisations[o.Name] != nil {
			return nil, fmt.Errorf("organisation %s is there twice", o.Name)
		}
		known := &organisation{name: o.Name, broken: o.Broken}
		for _, t := range o.Tokens {
			sum, err := parseHash(o.Name, t.SHA256)
			if err != nil {
				return nil, fmt.Errorf("token %q of organisation %s: %w", t.Name, o.Name, err)
			}
			known.tokens = append(known.tokens, token{name: t.Name, sum: sum, notAfter: t.NotAfter})
		}
		c.organisations[o.Name] = known
	}
	return c, nil
}

// Identify says who sent r: Basic credentials, the user being organisation or
// organisation+account, the password one of the organisation's tokens. It looks
// at nothing but the Authorization header.
//
// Errors are *oci.Error of class Caller: 401 for missing and wrong credentials,
// alike for an unknown organisation and a wrong token, and 503 for a broken
// organisation. The challenge that belongs to a 401 is the caller's to add.
func (c *Table) Identify(r *http.Request) (Caller, error) {
	header := r.Header.Get("Authorization")
	if header == "" || header == emptyBasic {
		return Caller{}, unproven("this node asks who is pulling: docker login here with the organisation as user name and one of its tokens as password")
	}
	var buf [maxBasic]byte
	b, ok := parseBasic(header, &buf)
	if !ok {
		return Caller{}, unproven("the login cannot be read: docker login here with the organisation as user name and one of its tokens as password")
	}
	o, ok := c.organisations[string(b.organisation)]
	if ok && o.broken {
		return Caller{}, Broken(o.name)
	}
	if !ok {
		o = nobody()
	}
	found := o.prove(sha256.Sum256(b.password))
	if found == nil {
		return Caller{}, unproven("unknown organisation or wrong token: the user name is the organisation (or organisation+account), the password one of its tokens for this node")
	}
	if !found.notAfter.IsZero() && c.now().After(found.notAfter) {
		return Caller{}, unproven(fmt.Sprintf("organisation %s: its token %q for this node ended on %s: log in with a newer one", o.name, found.name, found.notAfter.Format(time.DateOnly)))
	}
	return Caller{Organisation: o.name, Account: string(b.account), TokenName: found.name}, nil
}

// emptyBasic is neither a user name nor a password: what podman sends where a
// login is asked for and there is none.
const emptyBasic = "Basic Og=="

// nobody stands in for an organisation that is not there, so that looking for
// its token takes as long. No hash is all zeros in practice.
func nobody() *organisation { return &organisation{tokens: make([]token, 1)} }

// prove looks at every token, whichever matched: how long it takes says nothing.
func (o *organisation) prove(sum [sha256.Size]byte) *token {
	match := -1
	for i := range o.tokens {
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

// Broken is what callers are told of an organisation whose configuration cannot be
// read: to try again, not that they are somebody else.
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
