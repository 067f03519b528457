package limit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

// sent is how many calls of an organisation, one after the other, were let out within d.
func sent(t *testing.T, h *Host, organisation string, d time.Duration) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		ticket, err := h.Admit(ctx, Call{Organisation: organisation})
		if err != nil {
			return n
		}
		if err := ticket.Spend(h.key); err != nil {
			t.Fatal(err)
		}
		ticket.Close()
		n++
	}
}

// A burst goes out at once, and then so many a second; nobody else waits for that.
func TestHosts_Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{Rate: Rate{20, 500}}
		all.SetRates(map[string]Rate{"small": {2, 3}})
		h := all.Use("", "hub.test:443", 0)
		if n := sent(t, h, "globex", 10*time.Second); n < 695 || n > 701 {
			t.Errorf("%d were sent in ten seconds", n)
		}
		for _, organisation := range []string{"acme", ""} {
			begun := time.Now()
			if _, err := h.Admit(t.Context(), Call{Organisation: organisation}); err != nil || time.Since(begun) != 0 {
				t.Errorf("%q waited %v for another: %v", organisation, time.Since(begun), err)
			}
		}
		if n := sent(t, h, "small", 10*time.Second); n < 22 || n > 23 {
			t.Errorf("%d were sent in ten seconds by who has a limit of his own", n)
		}
		go func() { _, _ = h.Admit(t.Context(), Call{Organisation: "small"}) }()
		synctest.Wait()
		if w := all.Waiting(); len(w) != 1 || w[0] != (Waiting{"hub.test:443", "small", 1}) {
			t.Errorf("waiting: %+v", w)
		}
		time.Sleep(time.Second)
		if w := all.Waiting(); len(w) != 0 {
			t.Errorf("still waiting: %+v", w)
		}
		all.SetRates(map[string]Rate{"small": {20, 500}})
		if n := sent(t, h, "small", 10*time.Second); n < 199 || n > 701 {
			t.Errorf("%d were sent under a new limit", n)
		}
	})
}

// What waits too long is told so, as the organisation's own limit.
func TestHosts_TooFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{Rate: Rate{1, 1}}).Use("", "hub.test:443", 0)
		var wg sync.WaitGroup
		var late int
		for range 30 {
			wg.Go(func() {
				begun := time.Now()
				ticket, err := h.Admit(t.Context(), Call{Organisation: "globex"})
				if err == nil {
					ticket.Close()
					return
				}
				e, ok := errors.AsType[*oci.Error](err)
				if !ok || e.Class != oci.Policy || e.HTTPStatus() != http.StatusServiceUnavailable || e.Rule != "limits.rate" || e.RetryAfter <= 0 {
					t.Errorf("%v", err)
				}
				if time.Since(begun) > hostWait {
					t.Errorf("it waited %v", time.Since(begun))
				}
				late++
			})
			synctest.Wait()
		}
		wg.Wait()
		if late < 13 || late > 15 {
			t.Errorf("%d of 30 were too late", late)
		}
	})
}

// A registry that counts what comes from an address in a minute never gets more than
// that, and who has used less of it goes first.
func TestHosts_PerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{Rate: Rate{200, 100_000}}).Use("", "hub.test:443", 1500)
		var mu sync.Mutex
		var times []time.Time
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 100 { // of globex, for minutes
			wg.Go(func() {
				for ctx.Err() == nil {
					ticket, err := h.Admit(ctx, Call{Organisation: "globex"})
					if err != nil {
						continue
					}
					mu.Lock()
					times = append(times, time.Now())
					mu.Unlock()
					time.Sleep(100 * time.Millisecond)
					ticket.Close()
				}
			})
		}
		time.Sleep(5*time.Minute + 30*time.Second)
		begun := time.Now()
		for range 200 { // acme's deploy in the middle of it
			ticket, err := h.Admit(ctx, Call{Organisation: "acme"})
			if err != nil {
				t.Error(err)
				break
			}
			mu.Lock()
			times = append(times, time.Now())
			mu.Unlock()
			ticket.Close()
		}
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("200 requests of who had used nothing took %v", took)
		}
		stop()
		wg.Wait()
		for i, j := 0, 0; j < len(times); j++ {
			for times[j].Sub(times[i]) >= time.Minute {
				i++
			}
			if j-i+1 > 1500 {
				t.Fatalf("%d in a minute", j-i+1)
			}
		}
		time.Sleep(30 * time.Second)
		if n := h.minute.Load().inUse(); n != 0 {
			t.Errorf("%d are still counted", n)
		}
	})
}

// A redirect to another registry needs what is left there, and other hosts are as good
// as the registry's own.
func TestHosts_RedirectToAnotherRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{Rate: Rate{1, 3}}
		hub, own := all.Use("", "hub.test:443", 100), all.Use("", "own.test:443", 0)
		ticket, err := own.Admit(t.Context(), Call{Organisation: "globex"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if err := ticket.Spend("own.test:443"); err != nil {
				t.Error(err)
			}
			if err := ticket.Spend("hub.test:443"); (err == nil) != (i < 3) {
				t.Errorf("redirect %d: %v", i, err)
			}
		}
		ticket.Close()
		if n := hub.minute.Load().inUse(); n != 3 {
			t.Errorf("%d are counted", n)
		}
		// What goes elsewhere is paid for by the next call.
		ticket, err = hub.Admit(t.Context(), Call{Organisation: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := ticket.Spend("cdn.test:443"); err != nil {
				t.Error(err)
			}
		}
		ticket.Close()
		begun := time.Now()
		if _, err := hub.Admit(t.Context(), Call{Organisation: "acme"}); err != nil || time.Since(begun) != 4*time.Second {
			t.Errorf("the next call came after %v, %v", time.Since(begun), err)
		}
	})
}

// A question about a right that would otherwise stand may go past all that.
func TestHosts_Past(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{Connections: 1, Rate: Rate{0.001, 1}}).Use("", "hub.test:443", 3)
		asked := 0
		past := func() bool { asked++; return true }
		for i := range 3 {
			if _, err := h.Admit(t.Context(), Call{Organisation: "acme", Proof: true, Past: past}); err != nil {
				t.Error(err)
			}
			if i == 0 && asked != 0 {
				t.Error("it was asked although nothing was in the way")
			}
		}
		begun := time.Now()
		if _, err := h.Admit(t.Context(), Call{Organisation: "acme", Proof: true}); err == nil || time.Since(begun) > proofWait {
			t.Errorf("another question: %v, after %v", err, time.Since(begun))
		}
	})
}

// What an organisation has under way at one host, and holds for ever, leaves turns for
// others: requests, blobs and questions about rights alike.
func TestHosts_AHungRegistryHoldsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{}).Use("", "hub.test:443", 0)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() { // it is never closed
				_, _ = h.Admit(ctx, Call{Organisation: "globex", Blob: i%3 == 0, Proof: i%3 == 1})
			})
		}
		synctest.Wait()
		for name, c := range map[string]Call{"a blob": {Blob: true}, "a manifest": {}, "a HEAD": {Proof: true}} {
			c.Organisation = "acme"
			begun := time.Now()
			ticket, err := h.Admit(t.Context(), c)
			if err != nil || time.Since(begun) != 0 {
				t.Errorf("%s waited %v: %v", name, time.Since(begun), err)
				continue
			}
			ticket.Close()
		}
		if all := h.all.Waiting(); len(all) != 1 || all[0].Organisation != "globex" || all[0].Calls < 220 {
			t.Errorf("%+v", all)
		}
		cancel()
		wg.Wait()
		if all := h.all.Waiting(); len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
}

// A ticket gives its turn back once, whatever happens to it.
func TestHosts_TicketsGiveBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{Connections: 2}
		h := all.Use("", "hub.test:443", 0)
		admit := func() *Ticket {
			ticket, err := h.Admit(t.Context(), Call{Blob: true})
			if err != nil {
				t.Fatal(err)
			}
			return ticket
		}
		resume := func(ticket *Ticket) {
			if err := ticket.Resume(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for name, f := range map[string]func(*Ticket){
			"closed twice":       func(a *Ticket) { a.Close(); a.Close() },
			"paused":             func(a *Ticket) { a.Pause(); a.Pause(); a.Close() },
			"resumed":            func(a *Ticket) { a.Pause(); resume(a); resume(a); a.Close() },
			"paused when closed": func(a *Ticket) { a.Close(); a.Pause(); resume(a) },
			"closed while it waits": func(a *Ticket) {
				a.Pause()
				b, c := admit(), admit()
				go resume(a)
				synctest.Wait()
				a.Close()
				b.Close()
				c.Close()
				synctest.Wait()
			},
		} {
			f(admit())
			if _, n := h.InUse(); n != 0 {
				t.Fatalf("%s: %d are in use", name, n)
			}
		}
		again := all.Use("", "hub.test:443", 0)
		h.Leave()
		if all.known("", "hub.test:443") != again {
			t.Error("it went although somebody uses it")
		}
		again.Leave()
		if all.known("", "hub.test:443") != nil {
			t.Error("it stays although nobody uses it")
		}
	})
}

// A download that was paused for its client goes on before those that have not begun, and
// is not given up when what is before it lasts.
func TestHosts_PausedDownloadGoesOnFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{Connections: 2}).Use("", "hub.test:443", 0)
		admit := func() *Ticket {
			ticket, err := h.Admit(t.Context(), Call{Blob: true})
			if err != nil {
				t.Fatal(err)
			}
			return ticket
		}
		paused, other := admit(), admit()
		paused.Pause()
		third := admit()
		order := make(chan string, 2)
		var wg sync.WaitGroup
		wg.Go(func() {
			begun := admit()
			order <- "begun"
			begun.Close()
		})
		synctest.Wait()
		wg.Go(func() {
			if err := paused.Resume(t.Context()); err != nil {
				t.Error(err)
			}
			order <- "paused"
			paused.Close()
		})
		time.Sleep(2 * time.Minute)
		other.Close()
		if first := <-order; first != "paused" {
			t.Errorf("%s goes on first", first)
		}
		third.Close()
		wg.Wait()
	})
}

// However few organisations hold all turns for blobs, and however long theirs last, one
// that comes has a turn within seconds, and none of them loses what it has begun.
func TestHosts_LongBlobsLeaveTurnsForOthers(t *testing.T) {
	for _, holders := range []int{2, 4, 16, 20} {
		t.Run(fmt.Sprint(holders, " organisations"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { longBlobs(t, holders) })
		})
	}
}

func longBlobs(t *testing.T, holders int) {
	h := (&Hosts{}).Use("", "hub.test:443", 0)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	begun := make([]atomic.Int64, holders)
	for i := range holders {
		for range 20 {
			wg.Go(func() { // as a body is read, for as long as the test lasts
				ticket, err := h.Admit(ctx, Call{Organisation: fmt.Sprint("large", i), Blob: true})
				if err != nil {
					return
				}
				defer ticket.Close()
				begun[i].Add(1)
				for ctx.Err() == nil {
					time.Sleep(100 * time.Millisecond)
					if _, n := h.InUse(); n > 16 {
						t.Errorf("%d turns", n)
					}
					if err := ticket.Resume(ctx); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			})
		}
		synctest.Wait()
	}
	time.Sleep(time.Minute)
	for i := range begun {
		if begun[i].Load() == 0 {
			t.Errorf("large%d had no turn in a minute", i)
		}
	}
	for range 10 {
		start := time.Now()
		ticket, err := h.Admit(ctx, Call{Organisation: "small", Blob: true})
		if took := time.Since(start); err != nil || took > 2*impatience {
			t.Errorf("a turn after %v: %v", took, err)
		}
		if err == nil {
			time.Sleep(time.Second)
			ticket.Close()
		}
	}
	cancel()
	wg.Wait()
	if len(h.blobs.turns) != 0 {
		t.Errorf("%d turns are lost", len(h.blobs.turns))
	}
}

// Another registry at the same place may be counted by the minute.
func TestHosts_CountedFromNowOn(t *testing.T) {
	all := &Hosts{}
	h := all.Use("", "hub.test:443", 0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				ticket, err := h.Admit(t.Context(), Call{Organisation: "acme"})
				if err != nil {
					t.Error(err)
					return
				}
				ticket.Close()
			}
		})
		wg.Go(func() { all.Use("", "hub.test:443", 100_000) })
	}
	wg.Wait()
	if h.minute.Load() == nil {
		t.Error("it is not counted")
	}
}
