package limit

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// joiners are the organisations that something is for, which come and go.
type joiners struct {
	mu  sync.Mutex
	all []string
}

func (j *joiners) set(all ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = all
}

func (j *joiners) get() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all
}

// Whoever joins what another one has begun does not wait in that one's queue, whatever the
// queue is for; and who has begun it pays where he has room.
func TestTicket_WhoComesAlongPays(t *testing.T) {
	full := map[string]func(t *testing.T, h *Host){
		"rate": func(t *testing.T, h *Host) { // a flood of two minutes
			for range 4 {
				ticket, err := h.Admit(t.Context(), Call{Organisation: "globex", Blob: true})
				if err != nil {
					t.Fatal(err)
				}
				ticket.Close()
			}
			for range 30 {
				go func() {
					if ticket, err := h.Admit(t.Context(), Call{Organisation: "globex", Blob: true}); err == nil {
						ticket.Close()
					}
				}()
			}
			synctest.Wait()
		},
		"turns": func(t *testing.T, h *Host) {
			h.all.SetRates(nil)
			h.all.Rate = Rate{}
			for range 12 {
				if _, err := h.Admit(t.Context(), Call{Organisation: "globex", Blob: true}); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
	for name, fill := range full {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := (&Hosts{Rate: Rate{0.25, 4}}).Use("", "hub.test:443", 0)
				var along joiners
				along.set("globex")
				call := Call{Organisation: "globex", Blob: true, Along: along.get}
				ticket, err := h.Admit(t.Context(), call)
				if err != nil || ticket.Organisation() != "globex" {
					t.Fatal(ticket.Organisation(), err)
				}
				ticket.Close()
				fill(t, h)
				begun := time.Now()
				time.AfterFunc(700*time.Millisecond, func() { along.set("globex", "acme") })
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				ticket, err = h.Admit(ctx, call)
				if took := time.Since(begun); err != nil || ticket.Organisation() != "acme" || took > 700*time.Millisecond+lookAlong {
					t.Fatalf("%v, after %v", err, took)
				}
				ticket.Close()
				synctest.Wait()
				if _, n := h.InUse(); n > 12 {
					t.Errorf("acme still has %d", n)
				}
				time.Sleep(10 * time.Minute) // until the flood is over
			})
		})
	}
}

// What was paused for others in the middle goes on as whoever came along.
func TestTicket_WhoComesAlongTakesUpWhatWasPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{}).Use("", "hub.test:443", 0)
		var along joiners
		along.set("globex")
		ticket, err := h.Admit(t.Context(), Call{Organisation: "globex", Blob: true, Along: along.get})
		if err != nil {
			t.Fatal(err)
		}
		ticket.Pause()
		var others []*Ticket
		for range 12 {
			other, err := h.Admit(t.Context(), Call{Organisation: "globex", Blob: true})
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, other)
		}
		time.AfterFunc(time.Second, func() { along.set("globex", "acme") })
		begun := time.Now()
		if err := ticket.Resume(t.Context()); err != nil || time.Since(begun) > time.Second+lookAlong || ticket.Organisation() != "acme" {
			t.Errorf("%v, after %v, as %s", err, time.Since(begun), ticket.Organisation())
		}
		for _, other := range append(others, ticket) {
			other.Close()
		}
		if _, blobs := h.InUse(); blobs != 0 {
			t.Errorf("%d turns are left", blobs)
		}
	})
}

// A refusal is that of whoever began, where nobody else has come.
func TestTicket_AloneIsRefusedAsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := (&Hosts{}).Use("", "hub.test:443", 0)
		var along joiners
		along.set("globex")
		for range 12 {
			if _, err := h.Admit(t.Context(), Call{Organisation: "globex"}); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		_, err := h.Admit(t.Context(), Call{Organisation: "globex", Along: along.get})
		if took := time.Since(begun); err == nil || took != hostWait {
			t.Errorf("%v, after %v", err, took)
		}
	})
}

// streamed says how much a stream gives in each of some seconds.
func streamed(t *testing.T, h *Host, c Call, seconds int) (got []int) {
	t.Helper()
	ticket, err := h.Admit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer ticket.Close()
	got = make([]int, seconds)
	begun := time.Now()
	for {
		n := ticket.Most(256 << 10)
		time.Sleep(time.Duration(n) * time.Second / (40 * mib)) // what the registry gives
		if err := ticket.Read(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		second := int(time.Since(begun) / time.Second)
		if second >= seconds {
			return got
		}
		got[second] += n
	}
}

// One organisation's bandwidth holds up nobody who reads along and has room, however long
// its queue at that is; and what goes to him is not charged to it.
func TestBandwidth_OfWhoeverReadsAlong(t *testing.T) {
	for name, c := range map[string]struct {
		along     string
		perSecond int
	}{
		"one without a limit":     {"acme", 40 * mib},
		"one with a higher limit": {"initech", 10 * mib},
		"one with a lower limit":  {"umbrella", mib + 64<<10},
		"nobody":                  {"globex", mib},
		"callers without a name":  {"", 40 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := &Hosts{}
				all.SetBandwidth(0, map[string]int64{"globex": mib, "initech": 10 * mib, "umbrella": 64 << 10})
				h := all.Use("", "hub.test:443", 0)
				var along joiners
				along.set("globex")
				time.AfterFunc(3*time.Second, func() { along.set("globex", c.along) })
				got := streamed(t, h, Call{Organisation: "globex", Blob: true, Along: along.get}, 8)
				near(t, "alone", float64(got[1]), mib)
				near(t, "with another one", float64(got[6]), float64(c.perSecond))
				if c.along == "acme" {
					near(t, "of its own, at once", float64(streamed(t, h, Call{Organisation: "globex", Blob: true}, 3)[1]), mib)
				}
			})
		})
	}
	t.Run("in a long queue", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			all := &Hosts{}
			all.SetBandwidth(0, map[string]int64{"globex": 64 << 10})
			h := all.Use("", "hub.test:443", 0)
			var along joiners
			along.set("globex")
			ticket, err := h.Admit(t.Context(), Call{Organisation: "globex", Blob: true, Along: along.get})
			if err != nil {
				t.Fatal(err)
			}
			own, _ := all.bandwidth.of(ticket, time.Now())
			own.ReserveN(time.Now(), 64<<10) // others' bytes, a minute of them
			for range 60 {
				own.ReserveN(time.Now(), 64<<10)
			}
			time.AfterFunc(time.Second, func() { along.set("globex", "acme") })
			begun := time.Now()
			if err := ticket.Read(t.Context(), 32<<10); err != nil || time.Since(begun) > time.Second+lookAlong {
				t.Errorf("%v, after %v", err, time.Since(begun))
			}
		})
	})
}
