package limit

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An organisation that pulls many cold images at once still gets answers about its
// rights to the warm ones, all the while.
func TestHosts_AColdBurstRefusesNoHead(t *testing.T) {
	for name, per := range map[string]Rate{"by default": {20, 500}, "without a limit of its own": {}, "with a low one": {10, 100}} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { coldBurst(t, per) }) })
	}
}

func coldBurst(t *testing.T, per Rate) {
	h := (&Hosts{Rate: per}).Use("", "hub.test:443", 1500)
	call := func(c Call) error {
		c.Organisation = "acme"
		ticket, err := h.Admit(t.Context(), c)
		if err != nil {
			return err
		}
		defer ticket.Close()
		if err := ticket.Spend(h.key); err != nil {
			return err
		}
		if c.Blob {
			if err := ticket.Spend("cdn.test:443"); err != nil {
				return err
			}
		}
		time.Sleep(100*time.Millisecond + rand.N(200*time.Millisecond))
		return nil
	}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if err := call(Call{Proof: true}); err != nil {
				t.Errorf("a cold image's HEAD: %v", err)
			}
			_ = call(Call{})
			for range 10 {
				wg.Go(func() { _ = call(Call{Blob: true}) }) // who is refused may come again
			}
		})
	}
	for range 40 { // seconds
		for range 2 {
			wg.Go(func() {
				begun := time.Now()
				if err := call(Call{Proof: true}); err != nil {
					t.Errorf("a warm image's HEAD: %v, after %v", err, time.Since(begun))
				}
			})
		}
		time.Sleep(time.Second)
	}
	wg.Wait()
}

// What a CDN gives is not what the registry counts.
func TestHosts_ElsewhereIsNotTheRegistrysMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{Rate: Rate{1, 3}}).Use("", "hub.test:443", 1500)
		ticket, err := h.Admit(t.Context(), Call{Organisation: "acme", Blob: true})
		if err != nil {
			t.Fatal(err)
		}
		defer ticket.Close()
		for _, key := range []string{h.key, "cdn.test:443", "cdn.test:443"} {
			if err := ticket.Spend(key); err != nil {
				t.Error(err)
			}
		}
		if n := h.minute.Load().inUse(); n != 1 {
			t.Errorf("%d are counted", n)
		}
		begun := time.Now()
		if _, err := h.Admit(t.Context(), Call{Organisation: "acme"}); err != nil || time.Since(begun) != time.Second {
			t.Errorf("the organisation's next call came after %v, %v", time.Since(begun), err)
		}
	})
}
