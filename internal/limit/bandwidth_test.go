package limit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stream reads as one download does, from a registry that gives perSecond bytes, until
// ctx ends. It says how much came.
func stream(ctx context.Context, t *testing.T, h *Host, organisation string, perSecond int) (got int) {
	t.Helper()
	ticket, err := h.Admit(ctx, Call{Organisation: organisation, Blob: true})
	if err != nil {
		t.Error(err)
		return 0
	}
	defer ticket.Close()
	for ctx.Err() == nil {
		n := ticket.Most(256 << 10)
		time.Sleep(time.Duration(n) * time.Second / time.Duration(perSecond))
		if err := ticket.Read(ctx, n); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			return got
		}
		got += n
	}
	return got
}

// downloads runs one stream for each organisation named, for a while, and says how much
// came a second.
func downloads(t *testing.T, all *Hosts, perSecond int, organisations ...string) []float64 {
	t.Helper()
	const while = 20 * time.Second
	h := all.Use("", "hub.test:443", 0)
	defer h.Leave()
	ctx, cancel := context.WithTimeout(t.Context(), while)
	defer cancel()
	rates := make([]float64, len(organisations))
	var wg sync.WaitGroup
	for i, organisation := range organisations {
		wg.Go(func() { rates[i] = float64(stream(ctx, t, h, organisation, perSecond)) / while.Seconds() })
	}
	wg.Wait()
	return rates
}

const mib = 1 << 20

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < 0.9*want || got > 1.1*want {
		t.Errorf("%s: %.2f MiB/s, want %.2f", what, got/mib, want/mib)
	}
}

func sum(all []float64) (total float64) {
	for _, n := range all {
		total += n
	}
	return total
}

// One organisation has a limit, which its downloads share evenly, and nobody else
// notices.
func TestBandwidth_OfOneOrganisation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{}
		all.SetBandwidth(0, map[string]int64{"globex": 10 * mib, "acme": 0})
		got := downloads(t, all, 40*mib, "globex", "globex", "globex", "globex", "acme", "")
		near(t, "together", sum(got[:4]), 10*mib)
		for _, n := range got[:4] {
			near(t, "each", n, 2.5*mib)
		}
		near(t, "the other", got[4], 40*mib)
		near(t, "nobody", got[5], 40*mib)

		all.SetBandwidth(0, map[string]int64{"globex": 20 * mib}) // while it runs
		near(t, "with another limit", sum(downloads(t, all, 40*mib, "globex", "globex")), 20*mib)
		all.SetBandwidth(0, nil)
		near(t, "without a limit", sum(downloads(t, all, 40*mib, "globex", "globex")), 80*mib)
	})
}

// The node's limit is for all, and an organisation's own holds besides.
func TestBandwidth_OfTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{}
		all.SetBandwidth(30*mib, map[string]int64{"globex": 5 * mib})
		got := downloads(t, all, 40*mib, "globex", "acme", "initech")
		near(t, "together", sum(got), 30*mib)
		near(t, "who has a limit of its own", got[0], 5*mib)
		near(t, "one of the others", got[1], 12.5*mib)
		near(t, "the other", got[2], 12.5*mib)
	})
}

// The least that may be configured is held too, and what is small does not wait.
func TestBandwidth_OfLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{}
		all.SetBandwidth(0, map[string]int64{"globex": 64 << 10})
		if got := downloads(t, all, 40*mib, "globex", "globex"); sum(got) < 60<<10 || sum(got) > 75<<10 {
			t.Errorf("%.0f bytes a second", sum(got))
		}
		ticket, err := all.Use("", "hub.test:443", 0).Admit(t.Context(), Call{Organisation: "globex"})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for range 10 {
			if err := ticket.Read(t.Context(), 32<<10); err != nil || time.Since(begun) != 0 {
				t.Errorf("%v, after %v", err, time.Since(begun))
			}
		}
	})
}

// What does not wait makes nobody else wait either, however much of it there is.
func TestBandwidth_SmallThingsLeaveTheNodeToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Hosts{}
		all.SetBandwidth(8*mib, nil)
		ctx, cancel := context.WithCancel(t.Context())
		for range 4 { // together 125 MiB/s
			go func() {
				ticket, err := all.Use("", "own.test:443", 0).Admit(ctx, Call{Organisation: "globex"})
				if err != nil {
					t.Error(err)
					return
				}
				defer ticket.Close()
				for ctx.Err() == nil {
					begun := time.Now()
					if err := ticket.Read(ctx, ticket.Most(mib)); err != nil || time.Since(begun) != 0 {
						t.Errorf("%v, after %v", err, time.Since(begun))
					}
					time.Sleep(time.Millisecond)
				}
			}()
		}
		time.Sleep(time.Minute)
		if got := downloads(t, all, 40*mib, "acme", "initech"); got[0] < 3*mib || got[1] < 3*mib {
			t.Errorf("the others get %.2f and %.2f MiB/s", got[0]/mib, got[1]/mib)
		}
		cancel()
		near(t, "afterwards", sum(downloads(t, all, 40*mib, "acme", "initech")), 8*mib)
	})
}
