package admin

import (
	"path/filepath"
	"strings"
	"time"
)

// Problem is something that somebody should look at.
type Problem struct {
	// Bad says that pulls fail by it now.
	Bad  bool
	Text string
	// Detail is what is for the socket only.
	Detail string
}

// soonEnds is how long before its end a certificate is a problem.
const soonEnds = 14 * 24 * time.Hour

// lately is how long a failure counts as one of now.
const lately = time.Hour

// Problems are what somebody should look at, the worst first.
func (s *Status) Problems() []Problem {
	var bad, odd []Problem
	c := &s.Configuration
	if c.Main != nil && c.Main.State != Applied {
		odd = append(odd, Problem{Text: "the configuration file is bad: what was in force before stays", Detail: strings.Join(c.Main.Errors, "\n")})
	}
	for _, f := range c.Organisations {
		switch f.State {
		case Failed:
			bad = append(bad, Problem{Bad: true, Text: "organisation " + f.Organisation + " cannot pull: error in " + f.short(), Detail: strings.Join(f.Errors, "\n")})
		case Kept:
			odd = append(odd, Problem{Text: "organisation " + f.Organisation + ": error in " + f.short() + ", what was in force before stays", Detail: strings.Join(f.Errors, "\n")})
		}
	}
	for _, a := range s.Accounts {
		switch {
		case a.SecretError != "" && a.OldServes:
			odd = append(odd, Problem{Text: "the new secret of " + a.whose() + " for " + a.Registry + " cannot be used, the one before it serves for the moment", Detail: a.SecretError})
		case a.SecretError != "":
			bad = append(bad, Problem{Bad: true, Text: "the secret of " + a.whose() + " for " + a.Registry + " cannot be used", Detail: a.SecretError})
		}
		switch {
		case a.State == AccountRefused:
			bad = append(bad, Problem{Bad: true, Text: a.whose() + " was refused by " + a.Registry + ": renew its token"})
		case a.State == AccountResting && a.CoolDownUntil != nil:
			bad = append(bad, Problem{Bad: true, Text: a.whose() + " is not used at " + a.Registry + " until " + a.CoolDownUntil.Format(time.TimeOnly) + " UTC, after it was refused or limited there"})
		case a.low():
			odd = append(odd, Problem{Text: a.whose() + " has few pulls left at " + a.Registry})
		}
	}
	for _, registry := range s.Troubled {
		bad = append(bad, Problem{Bad: true, Text: registry + " does not answer, or not well: what is kept is served to whoever has proven access lately. berth diagnose " + registry + " says more"})
	}
	if s.Fleet != nil {
		for _, engine := range s.Fleet.Away {
			odd = append(odd, Problem{Text: "the fleet's " + engine + " is away: pulls go on without it. berth diagnose fleet says more"})
		}
	}
	for _, b := range s.Bypasses {
		odd = append(odd, Problem{Text: b.Client + " goes around this node for " + b.Registry + ": a pull that berth doctor had it make never came here. sudo berth doctor " + b.Client + " says where it goes"})
	}
	if p, ok := s.Cache.problem(); ok && p.Bad {
		bad = append(bad, p)
	} else if ok {
		odd = append(odd, p)
	}
	for _, l := range s.Listeners {
		if l.CertificateEnds != nil && l.CertificateEnds.Sub(s.Now) < soonEnds {
			odd = append(odd, Problem{Text: "the certificate of " + l.Address + " ends on " + l.CertificateEnds.UTC().Format(time.DateOnly)})
		}
	}
	for _, key := range c.NeedsRestart {
		odd = append(odd, Problem{Text: key + " has changed and needs a restart"})
	}
	for _, warning := range c.Warnings {
		odd = append(odd, Problem{Text: warning})
	}
	return append(bad, odd...)
}

// short is the file with the folder that it is in.
func (f *File) short() string {
	return filepath.Join(filepath.Base(filepath.Dir(f.Path)), filepath.Base(f.Path))
}

// whose names the account in a sentence.
func (a *Account) whose() string {
	switch {
	case a.Name == Nobody:
		return "this node's address (without an account)"
	case a.Organisation == Nobody:
		return "the node's own account"
	}
	return "account " + a.Name + " of organisation " + a.Organisation
}

// low says that less than a fifth of the rate limit is left.
func (a *Account) low() bool {
	return a.RateLimit != nil && a.RateLeft != nil && *a.RateLeft*5 < *a.RateLimit
}

// recent are the failures of the last hour.
func (s *Status) recent() []Failure {
	var all []Failure
	for _, f := range s.Failures {
		if s.Now.Sub(f.Last) < lately {
			all = append(all, f)
		}
	}
	return all
}
