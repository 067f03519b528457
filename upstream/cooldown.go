package upstream

import (
	"context"
	"errors"
	"time"

	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/classify"
)

// How long an account or this node leaves a registry alone that limits it and
// does not say for how long; doubled each time that does not help.
const (
	pullPause, maxPullPause   = time.Minute, 15 * time.Minute // pulls refill over hours
	abusePause, maxAbusePause = time.Minute, 15 * time.Minute
	limitPause, maxLimitPause = 5 * time.Second, time.Minute // a bucket that refills by itself
	// leastPause is the floor for what a registry says: GHCR asks for
	// microseconds.
	leastPause = time.Second
	// longestPause is the most that one 429 can stop an account for, whatever it
	// says: then one request finds out.
	longestPause = 6 * time.Hour
	// othersPause is the most that a 429 stops those who have not met it, and othersRest how
	// long it takes until another one does.
	othersPause, othersRest = time.Minute, 15 * time.Minute
)

// coolDown is a 429 that still holds.
type coolDown struct {
	detail string // which limit, for a registry with two
	until  time.Time
	// refills is when the registry said that there is more.
	refills time.Time
	// emptied: the 429 said that no pulls are left, so that a later answer which
	// says that there are ends it.
	emptied bool
	strikes int
	// met are those who have met it, by payer; others is until when it stops the others.
	met    map[string]bool
	others time.Time
}

// left is how long it still holds.
func (c *coolDown) left(now time.Time) time.Duration { return c.until.Sub(now) }

// stopsUntil is until when it holds for payer. A registry may pass on the answer of another
// one, which whoever owns the repository chose, and he may have several organisations pull
// it: what they have met would else stop all who share an account, or have none, for hours.
// Others find out for themselves.
func (c *coolDown) stopsUntil(payer string) time.Time {
	if c.met[payer] || c.until.Before(c.others) {
		return c.until
	}
	return c.others
}

// over ends it.
func (c *coolDown) over() { *c = coolDown{others: c.others} }

// limited notes a 429 that was the answer to op as cred, for payer. A pull limit stops the
// GETs of manifests, which are what is counted; an abuse limit stops this
// address; anything else stops the account.
func (a *accounts) limited(cred *credential.Credential, payer string, e *oci.Error, emptied bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, key := a.of(cred)
	c, first, last := &known.all, limitPause, maxLimitPause
	switch e.Detail {
	case classify.PullLimit:
		c, first, last = &known.manifests, pullPause, maxPullPause
	case classify.AbuseLimit:
		c, first, last = &a.node, abusePause, maxAbusePause
		key = accountKey{}
	}
	now := a.now()
	if c.left(now) > 0 { // it was under way when the first one came
		c.met[payer] = true
		return
	}
	pause := min(first<<min(c.strikes, 10), last)
	c.refills = time.Time{}
	if e.RetryAfter > 0 {
		pause = min(max(e.RetryAfter, leastPause), longestPause)
		c.refills = now.Add(e.RetryAfter)
	}
	c.detail, c.until, c.emptied = e.Detail, now.Add(pause), emptied
	c.met = map[string]bool{payer: true}
	if now.Sub(c.others) >= othersRest {
		c.others = now.Add(othersPause)
	}
	c.strikes++
	a.coolDown(key.organisation, key.name, c.until)
	a.log.Warn("a registry limits this node", "registry", a.registry, "organisation", key.organisation, "account", key.name,
		"limit", e.Detail, "until", c.until)
}

// end takes a cool-down back. Caller holds mu.
func (a *accounts) end(key accountKey, c *coolDown) {
	if c.left(a.now()) > 0 {
		a.coolDown(key.organisation, key.name, time.Time{})
	}
	c.over()
}

// taken notes that the registry answered op as cred with what was asked for:
// whatever had stopped it before is over.
func (a *accounts) taken(cred *credential.Credential, op operation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	known := a.table[keyOf(cred)]
	over := []*coolDown{&a.node}
	if known != nil {
		over = append(over, &known.all)
		if op == opManifest {
			over = append(over, &known.manifests)
		}
	}
	for _, c := range over {
		if c.left(now) <= 0 { // while it holds, the answer is to a request from before
			c.over()
		}
	}
}

// holds says which cool-down stops op as cred, for payer, and how long it still does.
func (a *accounts) holds(cred *credential.Credential, payer string, op operation) (detail string, left time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	stops := []*coolDown{&a.node}
	if known := a.table[keyOf(cred)]; known != nil && known.fingerprint == cred.Principal().Fingerprint {
		stops = append(stops, &known.all)
		if op == opManifest {
			stops = append(stops, &known.manifests)
		}
	}
	for _, c := range stops {
		until := c.stopsUntil(payer)
		if l := until.Sub(now); l > left {
			detail, left = c.detail, l
			if until.Equal(c.until) && c.refills.After(until) {
				left = c.refills.Sub(now)
			}
		}
	}
	return detail, left
}

// mayAsk is nil where c may go out as cred, and else the error from memory.
func (s *source) mayAsk(ctx context.Context, c *call, cred *credential.Credential, who asker) error {
	if detail, left := s.accounts.holds(cred, who.payer, c.op); left > 0 && !oci.Insists(ctx) {
		e := classify.RateLimited(s.name, detail, cred, left)
		e.Err = errRemembered
		return who.about(e)
	}
	if f, ok := s.origin.enter(ctx, oci.BehalfOf(ctx)); !ok {
		return who.remembered(f)
	}
	return nil
}

// heed draws the conclusions from an error that the registry itself gave.
func (s *source) heed(ctx context.Context, a *answer, e *oci.Error) {
	if e.Class == oci.Unauthorized && !e.NotUnderstood {
		s.authority.Refused(a.cred, e)
	}
	left := readLimit(a.Header, time.Time{}).remaining
	s.limitedBy(ctx, a.cred, e, left != nil && *left == 0)
}

// limitedBy notes a 429, of the registry or of its token endpoint. emptied says
// that it told that no pulls are left.
func (s *source) limitedBy(ctx context.Context, cred *credential.Credential, err error, emptied bool) {
	e := oci.AsError(err)
	if e.Class == oci.RateLimited && !errors.Is(e, errRemembered) && ctx.Err() == nil {
		s.accounts.limited(cred, s.asker(cred, "").payer, e, emptied)
	}
}
