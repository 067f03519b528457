package limit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
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
func acquireLater(ctx context.Context, l *Pool, organisation string) chan acquired {
	c := make(chan acquired, 1)
	go func() {
		s, err := l.Take(ctx, Want{Organisation: organisation})
		c <- acquired{s, err}
	}()
	return c
}

// mustAcquire takes a slot that must be free.
func mustAcquire(t *testing.T, l *Pool, organisation string) Slot {
	t.Helper()
	s, waits, err := l.enqueue(Want{Organisation: organisation, N: 1})
	if err != nil || waits != nil || s.party == nil {
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
func unlimited(t *testing.T, l *Pool, organisation string) {
	t.Helper()
	if s, err := l.Take(t.Context(), Want{Organisation: organisation}); s != (Slot{}) || err != nil {
		t.Errorf("%q is limited: %v, %v", organisation, s, err)
	}
}

func TestPool_QueueIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Pool{}
		l.SetLimits(map[string]int{"acme": 2, "globex": 1})
		first, second := mustAcquire(t, l, "acme"), mustAcquire(t, l, "acme")
		third := acquireLater(t.Context(), l, "acme")
		mustWait(t, third)
		fourth := acquireLater(t.Context(), l, "acme")
		mustWait(t, fourth)

		// The queue is as long as the limit.
		_, err := l.Take(t.Context(), Want{Organisation: "acme"})
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
		if q := l.parties[share{organisation: "acme"}]; q.used != 0 || len(q.queue) != 0 {
			t.Errorf("something is left: %+v", q)
		}
	})
}

func TestPool_WaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Pool{}
		l.SetLimits(map[string]int{"acme": 1})
		s := mustAcquire(t, l, "acme")
		begun := time.Now()
		_, err := l.Take(t.Context(), Want{Organisation: "acme"})
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
		if len(s.party.queue) != 0 {
			t.Error("a request that gave up is still in the queue")
		}
		s.Release()
		mustAcquire(t, l, "acme").Release()
	})
}

// A request that is admitted in the moment in which its wait ends keeps the slot:
// dropping it would lose the slot for good.
func TestPool_AdmissionAtTheEndOfTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Pool{}
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
func TestPool_LimitsChangeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Pool{}
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

func TestPool_Nil(t *testing.T) {
	var none *Pool
	unlimited(t, none, "acme")
	Slot{}.Release()
}

// held takes slots of n until there is none at once.
func held(t *testing.T, p *Pool, organisation string) (all []Slot) {
	t.Helper()
	for {
		s, waits, err := p.enqueue(Want{Organisation: organisation, N: 1})
		if err != nil {
			t.Fatal(err)
		}
		if waits != nil {
			p.dequeue(s.party, waits)
			return all
		}
		all = append(all, s)
	}
}

// Whoever comes is let in at once, however much those before him wanted.
func TestPool_SharesOutWhatIsFree(t *testing.T) {
	p := &Pool{Total: 16}
	first := held(t, p, "a")
	for _, organisation := range []string{"b", "c", ""} {
		if got := held(t, p, organisation); len(got) == 0 {
			t.Errorf("%q, after %d of a's, gets nothing", organisation, len(first))
		}
	}
	if len(first) != 12 {
		t.Errorf("one alone gets %d of 16", len(first))
	}
	for _, total := range []int64{1, 2} { // as few as a configuration may have
		if got := held(t, &Pool{Total: total}, "a"); int64(len(got)) != total {
			t.Errorf("of %d one gets %d", total, len(got))
		}
	}
}

// Who has least goes first.
func TestPool_LeastGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pool{Total: 4, Queue: 100}
		flood := held(t, p, "globex")
		flood = append(flood, held(t, p, "initech")...)
		var order []string
		var wg sync.WaitGroup
		wait := func(name string, w Want) {
			wg.Go(func() {
				s, err := p.Take(t.Context(), w)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, name)
				s.Release()
			})
			synctest.Wait()
		}
		for range 3 {
			wait("globex", Want{Organisation: "globex"})
		}
		wait("acme", Want{Organisation: "acme"})
		wait("nobody", Want{})
		for _, s := range flood {
			s.Release()
			synctest.Wait()
		}
		wg.Wait()
		if want := []string{"acme", "nobody", "globex", "globex", "globex"}; !slices.Equal(order, want) {
			t.Errorf("%q", order)
		}
		if p.used != 0 || p.waiting != 0 {
			t.Errorf("something is left: %d, %d", p.used, p.waiting)
		}
	})
}

// Amounts: what is more than a limit gets it alone, and what shrinks makes room.
func TestPool_Amounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pool{Most: 10, Queue: 100}
		big, err := p.Take(t.Context(), Want{Organisation: "a", N: 40})
		if err != nil {
			t.Fatal(err)
		}
		small := make(chan Slot)
		go func() {
			s, err := p.Take(t.Context(), Want{Organisation: "a", N: 6})
			if err != nil {
				t.Error(err)
			}
			small <- s
		}()
		synctest.Wait()
		if n := p.Waiting()["a"]; n != 1 {
			t.Errorf("%d wait", n)
		}
		big.Shrink(4)
		s := <-small
		big.Release()
		s.Release()
		if p.used != 0 || p.waiting != 0 {
			t.Errorf("something is left: %d, %d", p.used, p.waiting)
		}
	})
}

// One organisation floods with whatever it likes; what another one asks for waits for
// a bounded number of turns, not for the flood's length.
func TestPool_AFloodDelaysAnotherByABoundedNumberOfTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pool{Total: 16, Wait: time.Hour, Queue: 10_000}
		const turn = time.Second
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				s, err := p.Take(t.Context(), Want{Organisation: "globex"})
				if err == nil {
					time.Sleep(turn)
					s.Release()
				}
			})
		}
		synctest.Wait()
		begun := time.Now()
		for range 20 { // a pull, one after the other
			s, err := p.Take(t.Context(), Want{Organisation: "acme"})
			if err != nil {
				t.Error(err)
				return
			}
			s.Release()
		}
		if took := time.Since(begun); took > turn {
			t.Errorf("twenty requests took %v beside a flood", took)
		}
		wg.Wait()
	})
}

// Of two who may both have one more, the one that has less gets it, though it came later.
func TestPool_LessGoesBeforeEarlier(t *testing.T) {
	p := &Pool{Total: 8}
	take := func(organisation string) Slot { return p.Charge(organisation, 1) }
	var more, room []Slot
	for range 5 {
		more = append(more, take("more"))
	}
	take("less")
	room = append(room, take("room"), take("room"))
	waits := map[string]*waiter{}
	for _, organisation := range []string{"more", "less"} {
		_, w, err := p.enqueue(Want{Organisation: organisation, N: 1})
		if w == nil || err != nil {
			t.Fatal(w, err)
		}
		waits[organisation] = w
	}
	for _, s := range append(room, more[0]) {
		s.Release()
	}
	select {
	case <-waits["less"].admitted:
	default:
		t.Error("the one with less still waits")
	}
	select {
	case <-waits["more"].admitted:
		t.Error("the one with more came first")
	default:
	}
}

// Shares at different places are apart, and who has nothing is not kept for ever.
func TestPool_SharesAtPlaces(t *testing.T) {
	p := &Pool{Most: 4}
	var all []Slot
	for i := range 3 * idleParties {
		s, waits, err := p.enqueue(Want{Organisation: "globex", At: strconv.Itoa(i), N: 4})
		if waits != nil || err != nil {
			t.Fatal(waits, err)
		}
		all = append(all, s)
	}
	if _, waits, _ := p.enqueue(Want{Organisation: "globex", At: "7", N: 1}); waits == nil {
		t.Error("one place has more than its share")
	}
	for _, s := range all {
		s.Release()
	}
	if n := len(p.parties); n > idleParties+1 {
		t.Errorf("%d are kept", n)
	}
}

// Where small wants have the last quarter, each of many has one of it at once, whatever the
// others hold; and nobody has more.
func TestPool_LastQuarterForSmallWants(t *testing.T) {
	p := &Pool{Total: 64, Small: 1}
	now := func(organisation string, n int64) bool {
		_, err := p.now(Want{Organisation: organisation, N: n})
		return err == nil
	}
	for n := int64(4); now("villain", n); {
	}
	if n := p.used; n != 48 || now("b", 2) {
		t.Errorf("the first one has %d, and who has nothing another part of the rest", n)
	}
	for i := range 16 {
		if who := fmt.Sprint(i); !now(who, 1) || now(who, 1) {
			t.Errorf("%s has not exactly one", who)
		}
	}
	if now("late", 1) {
		t.Error("there was more than all")
	}
}

// What lasts is ended for whoever waits and has less: the largest that has lasted for a
// while, of the one who has most, and one at a time. Nobody's own limit ends it.
func TestPool_EndsWhatLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pool{Total: 64, Most: 48, Levels: true, Queue: 100, Wait: time.Minute}
		var ended []string
		lasting := func(name string, n int64) {
			s, err := p.now(Want{Organisation: name[:1], N: n})
			if err != nil {
				t.Fatal(name, err)
			}
			s.lasts(func() {
				ended = append(ended, name)
				s.Release()
			})
		}
		for _, l := range []struct {
			name string
			n    int64
		}{{"a small", 1}, {"a first", 15}, {"a second", 15}, {"b", 30}} {
			lasting(l.name, l.n)
			time.Sleep(time.Nanosecond)
		}
		p.SetLimits(map[string]int{"c": 5})
		own := p.Charge("c", 5)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := p.Take(ctx, Want{Organisation: "c", N: 1}); err == nil || ended != nil {
			t.Errorf("at its own limit it ends %q, %v", ended, err)
		}
		own.Release()
		p.SetLimits(nil)
		begun := time.Now()
		for _, n := range []int64{10, 5} {
			if _, err := p.Take(t.Context(), Want{Organisation: "c", N: n}); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"a first", "b"}; !slices.Equal(ended, want) || time.Since(begun) != 2*impatience {
			t.Errorf("after %v %q had ended, want %q", time.Since(begun), ended, want)
		}
		if len(p.turns) != 2 {
			t.Errorf("%d turns are left", len(p.turns))
		}
	})
}
