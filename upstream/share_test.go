package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/oci"
	"berth/upstream/dialect"
)

// told makes a Registry whose limit for nobody's account is known; 0: it is not.
func told(limit string) (r *Registry, forward func(time.Duration)) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	hub, _ := dialect.TypeNamed(dialect.DockerHub)
	o := Options{Name: "docker.io", Type: hub, Now: func() time.Time { return now }}.withDefaults()
	r = &Registry{accounts: newAccounts(&o), sender: sender{name: o.Name, now: o.Now}}
	if limit != "" {
		r.accounts.read(nil, http.Header{"Ratelimit-Limit": {limit}, "Ratelimit-Remaining": {"1"}})
	}
	return r, func(d time.Duration) { now = now.Add(d) }
}

func spend(t *testing.T, r *Registry, organisation string, share float64, n int) {
	t.Helper()
	for i := range n {
		if _, err := r.Spend(organisation, share); err != nil {
			t.Fatalf("%s, pull %d: %v", organisation, i, err)
		}
	}
}

func TestShares(t *testing.T) {
	r, forward := told("100;w=3600")
	spend(t, r, "acme", 0.1, 9)
	forward(10 * time.Minute)
	undo, err := r.Spend("acme", 0.1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Spend("acme", 0.1)
	e, ok := errors.AsType[*oci.Error](err)
	if !ok || e.Class != oci.RateLimited || e.RetryAfter != 50*time.Minute || !strings.Contains(e.Message, "10 pulls in 60 min") || !strings.Contains(e.Message, "more in 50 min") {
		t.Fatalf("one too many: %v", err)
	}
	undo()
	spend(t, r, "acme", 0.1, 1)
	spend(t, r, "globex", 0.1, 10)
	spend(t, r, "", 0.1, 10)
	if _, err := r.Spend("", 0.1); err == nil || !strings.Contains(err.Error(), "callers without an organisation have had their share") {
		t.Errorf("whoever is in no organisation: %v", err)
	}
	forward(50 * time.Minute)
	spend(t, r, "acme", 0.1, 9)
	if _, err := r.Spend("acme", 0.1); err == nil {
		t.Error("the last one of the window before does not count")
	}
}

// A registry may pass on what another one answers: whoever owns one repository says nothing
// about how much others may pull. Docker Hub passes on nothing, and is believed.
func TestShares_ToldByOneRepository(t *testing.T) {
	for kind, most := range map[string]int{dialect.Generic: 100, dialect.GHCR: 100, dialect.DockerHub: 1} {
		l := newLimited(t, kind, func(string) *http.Response {
			return replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String(), "Ratelimit-Limit", "1;w=2678400", "Ratelimit-Remaining", "1")
		})
		read, err := l.As(Identity{Payer: "globex"}).Open(t.Context(), anObject, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, read)
		if rows := l.RateLimits(); len(rows) != 1 || *rows[0].Limit != 1 {
			t.Errorf("%s: it is not shown: %+v", kind, rows)
		}
		pulls := 0
		for ; pulls < 100; pulls++ {
			if _, err := l.Spend("acme", 0.25); err != nil {
				break
			}
		}
		if pulls != most {
			t.Errorf("%s: another organisation has %d pulls, want %d", kind, pulls, most)
		}
	}
}

// Nor does it end what the limit of an account that all share has begun; that of one's own
// account is one's own.
func TestCoolDown_EndedByOneRepository(t *testing.T) {
	for name, c := range map[string]struct {
		kind string
		id   Identity
		ends bool
	}{
		"nobody's": {dialect.Generic, Identity{Payer: "globex"}, false}, "this node's": {dialect.Quay, as("", "bot", "secret"), false},
		"Docker Hub": {dialect.DockerHub, Identity{Payer: "globex"}, true}, "one's own": {dialect.Generic, as("globex", "g", "secret"), true},
	} {
		l := newLimited(t, c.kind, func(op string) *http.Response {
			if op == "GET manifest" {
				return replyWith(429, pullLimitText, "Ratelimit-Remaining", "0;w=21600")
			}
			return replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String(), "Ratelimit-Limit", "100", "Ratelimit-Remaining", "99")
		})
		l.each(t, c.id)
		if rows := l.RateLimits(); len(rows) != 1 || rows[0].CoolDownUntil.IsZero() != c.ends {
			t.Errorf("%s: %+v", name, rows)
		}
	}
}

func TestSharesOfLittle(t *testing.T) {
	r, _ := told("2;w=60")
	spend(t, r, "acme", 0.1, 1)
	if _, err := r.Spend("globex", 0); err == nil {
		t.Error("a share of 0 is a pull")
	}
	unknown, _ := told("")
	spend(t, unknown, "acme", 0.1, 3*keptUntold)
	if n := len(unknown.shares.spent["acme"]); n != keptUntold {
		t.Errorf("%d pulls are remembered", n)
	}
}
