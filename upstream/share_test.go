package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// told makes a Registry whose limit for nobody's account is known; 0: it is not.
func told(limit string) (r *Registry, forward func(time.Duration)) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	o := Options{Name: "docker.io", Now: func() time.Time { return now }}.withDefaults()
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
