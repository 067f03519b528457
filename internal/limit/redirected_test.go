package limit

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// Who has a registry may redirect to another one as often as he likes: what the node may
// send there in a minute stays free for the others.
func TestHost_RedirectsLeaveTheMinuteToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{Rate: Rate{20, 500}}
		hub := all.Use("", "hub.test:443", 1500)
		own := all.Use("", "own.test:443", 0)
		ctx, cancel := context.WithCancel(t.Context())
		for range 12 {
			go func() {
				for ctx.Err() == nil {
					ticket, err := own.Admit(ctx, Call{Organisation: "globex", Blob: true})
					if err != nil {
						time.Sleep(time.Second)
						continue
					}
					_ = ticket.Spend("own.test:443")
					_ = ticket.Spend("hub.test:443") // a redirect
					time.Sleep(50 * time.Millisecond)
					ticket.Close()
				}
			}()
		}
		time.Sleep(time.Minute)
		for range 30 {
			ticket, err := hub.Admit(ctx, Call{Organisation: "acme"})
			if err != nil {
				t.Error(err)
				break
			}
			ticket.Close()
			time.Sleep(time.Second)
		}
		cancel()
		time.Sleep(10 * time.Minute) // until all has run out
		if n := hub.minute.Load().inUse(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// An organisation brings the place that everybody's registry redirects to as a registry of
// its own. What the others are redirected to there is not counted by that.
func TestHosts_BroughtByAnOrganisation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{Rate: Rate{20, 500}}
		hub, cdn := all.Use("", "hub.test:443", 0), all.Use("globex", "cdn.test:443", 1500)
		for range 500 { // what a node sends there in a minute is gone
			if err := cdn.take("globex"); err != nil {
				break
			}
		}
		for range 600 {
			ticket, err := hub.Admit(t.Context(), Call{Organisation: "acme", Blob: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := ticket.Spend("cdn.test:443"); err != nil {
				t.Fatalf("acme's redirect: %v", err)
			}
			ticket.Close()
		}
		own, err := cdn.Admit(t.Context(), Call{Organisation: "globex"})
		if err != nil {
			t.Fatal(err)
		}
		own.Close()
		if cdn.Leave(); all.known("globex", "cdn.test:443") != nil {
			t.Error("it stays")
		}
		if h := all.Use("initech", "hub.test:443", 0); h == hub || all.known("initech", "hub.test:443") != hub {
			t.Error("what an organisation calls a registry stands before the platform's")
		}
		time.Sleep(10 * time.Minute) // until all has run out
	})
}

// Who has a share at each of many places has no more of the whole by that.
func TestPool_ManyPlacesAreOneOrganisation(t *testing.T) {
	p := &Pool{Total: 64, Most: 16}
	take := func(organisation string, at int) (ok bool) {
		s, waits, err := p.enqueue(Want{Organisation: organisation, At: strconv.Itoa(at), N: 1})
		if err != nil {
			t.Fatal(err)
		}
		if waits != nil {
			p.dequeue(s.party, waits)
		}
		return waits == nil
	}
	for at := range 40 {
		for take("globex", at) {
		}
	}
	if p.used > 48 {
		t.Errorf("one has %d of 64", p.used)
	}
	if !take("acme", 0) {
		t.Error("another one gets nothing")
	}
}
