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
		hub := all.Use("hub.test:443", 1500)
		own := all.Use("own.test:443", 0)
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
