package limit

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"berth/oci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// acquired is what became of one call of Acquire.
type acquired struct {
	Slot
	err error
}

// acquireLater calls Acquire in the background.
func acquireLater(ctx context.Context, l *Limiter, organisation string) chan acquired {
	c := make(chan acquired, 1)
	go func() {
		s, err := l.Acquire(ctx, organisation)
		c <- acquired{s, err}
	}()
	return c
}

// mustAcquire takes a slot that must be free.
func mustAcquire(t *testing.T, l *Limiter, organisation string) Slot {
	t.Helper()
	s, admitted, err := l.enqueue(organisation)
	if err != nil || admitted != nil || s.quota == nil {
		t.Fatalf("%s does not get in: %v", organisation, err)
	}
	return s
}

func mustWait(t *testing.T, c chan acquired) {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		t.Fatalf("it did not wait: %+v", a)
	default:
	}
}

func mustCome(t *testing.T, c chan acquired) acquired {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		return a
	default:
		t.Fatal("it still waits")
		return acquired{}
	}
}

// unlimited fails if organisation has a limit.
func unlimited(t *testing.T, l *Limiter, organisation string) {
	t.Helper()
	if s, err := l.Acquire(t.Context(), organisation); s != (Slot{}) || err != nil {
		t.Errorf("%q is limited: %v, %v", organisation, s, err)
	}
}

func TestLimiter_queueIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{}
		l.SetLimits(map[string]int{"acme": 2, "globex": 1})
		first, second := mustAcquire(t, l, "acme"), mustAcquire(t, l, "acme")
		third := acquireLater(t.Context(), l, "acme")
		mustWait(t, third)
		fourth := acquireLater(t.Context(), l, "acme")
		mustWait(t, fourth)

		// The queue is as long as the limit.
		_, err := l.Acquire(t.Context(), "acme")
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || e.HTTPStatus() != http.StatusServiceUnavailable || e.RetryAfter <= 0 {
			t.Errorf("one too many in the queue: %v", err)
		}

		// Other organisations are not touched, nor are callers without one.
		mustAcquire(t, l, "globex").Release()
		unlimited(t, l, "")

		first.Release()
		got := mustCome(t, third)
		mustWait(t, fourth)
		second.Release()
		mustCome(t, fourth).Release()
		got.Release()
		if q := l.quotas["acme"]; q.running != 0 || len(q.queue) != 0 {
			t.Errorf("something is left: %+v", q)
		}
	})
}

func TestLimiter_waitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{}
		l.SetLimits(map[string]int{"acme": 1})
		s := mustAcquire(t, l, "acme")
		begun := time.Now()
		_, err := l.Acquire(t.Context(), "acme")
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || e.Class != oci.Policy || e.HTTPStatus() != http.StatusServiceUnavailable {
			t.Errorf("after the wait: %v", err)
		}
		if waited := time.Since(begun); waited != defaultWait {
			t.Errorf("it waited %v", waited)
		}

		gone := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		c := acquireLater(ctx, l, "acme")
		mustWait(t, c)
		cancel(gone)
		if a := mustCome(t, c); !errors.Is(a.err, gone) {
			t.Errorf("a client that left: %+v", a)
		}
		if len(s.quota.queue) != 0 {
			t.Error("a request that gave up is still in the queue")
		}
		s.Release()
		mustAcquire(t, l, "acme").Release()
	})
}

// A request that is admitted in the moment in which its wait ends keeps the slot:
// dropping it would lose the slot for good.
func TestLimiter_admissionAtTheEndOfTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{}
		l.SetLimits(map[string]int{"acme": 1})
		s := mustAcquire(t, l, "acme")
		for range 200 { // select picks either of two ready cases
			ctx, cancel := context.WithCancel(t.Context())
			c := acquireLater(ctx, l, "acme")
			mustWait(t, c)
			s.Release()
			cancel()
			a := mustCome(t, c)
			if a.err != nil {
				t.Fatalf("admitted, and then: %v", a.err)
			}
			s = a.Slot
		}
		s.Release()
		mustAcquire(t, l, "acme").Release()
	})
}

// Requests that were admitted before a change count after it.
func TestLimiter_limitsChangeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{}
		l.SetLimits(map[string]int{"acme": 2})
		a, b := mustAcquire(t, l, "acme"), mustAcquire(t, l, "acme")
		c := acquireLater(t.Context(), l, "acme")
		mustWait(t, c)
		l.SetLimits(map[string]int{"acme": 3})
		third := mustCome(t, c)

		l.SetLimits(map[string]int{"acme": 1})
		a.Release()
		b.Release()
		d := acquireLater(t.Context(), l, "acme")
		mustWait(t, d)
		l.SetLimits(nil) // the organisation is gone: it is refused elsewhere
		fourth := mustCome(t, d)
		third.Release()
		fourth.Release()
		unlimited(t, l, "acme")
	})
}

func TestLimiter_nil(t *testing.T) {
	var none *Limiter
	unlimited(t, none, "acme")
	Slot{}.Release()
}
