package proxy

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

// entered is what became of one call of enter.
type entered struct {
	share *share
	err   error
}

// enterLater calls enter in the background.
func enterLater(ctx context.Context, l *Limits, organisation string) chan entered {
	c := make(chan entered, 1)
	go func() {
		s, err := l.enter(ctx, organisation)
		c <- entered{s, err}
	}()
	return c
}

// mustEnter enters without waiting.
func mustEnter(t *testing.T, l *Limits, organisation string) *share {
	t.Helper()
	s, turn, err := l.stand(organisation)
	if err != nil || turn != nil || s == nil {
		t.Fatalf("%s does not get in: %v", organisation, err)
	}
	return s
}

func waiting(t *testing.T, c chan entered) {
	t.Helper()
	synctest.Wait()
	select {
	case e := <-c:
		t.Fatalf("it did not wait: %+v", e)
	default:
	}
}

func came(t *testing.T, c chan entered) entered {
	t.Helper()
	synctest.Wait()
	select {
	case e := <-c:
		return e
	default:
		t.Fatal("it still waits")
		return entered{}
	}
}

func TestLimitsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limits{}
		l.Set(map[string]int{"acme": 2, "globex": 1})
		first, second := mustEnter(t, l, "acme"), mustEnter(t, l, "acme")
		third := enterLater(t.Context(), l, "acme")
		waiting(t, third)
		fourth := enterLater(t.Context(), l, "acme")
		waiting(t, fourth)

		// The line is as long as the limit.
		_, err := l.enter(t.Context(), "acme")
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || e.HTTPStatus() != http.StatusServiceUnavailable || e.RetryAfter <= 0 {
			t.Errorf("one too many in line: %v", err)
		}

		// Nobody else is touched, nor is nobody.
		l.leave(mustEnter(t, l, "globex"))
		if s, err := l.enter(t.Context(), ""); s != nil || err != nil {
			t.Errorf("nobody: %v, %v", s, err)
		}

		// First come, first served.
		l.leave(first)
		got := came(t, third)
		waiting(t, fourth)
		l.leave(second)
		l.leave(came(t, fourth).share)
		l.leave(got.share)
		if s := l.shares["acme"]; s.running != 0 || len(s.line) != 0 {
			t.Errorf("something is left: %+v", s)
		}
	})
}

func TestLimitsWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limits{}
		l.Set(map[string]int{"acme": 1})
		s := mustEnter(t, l, "acme")
		begun := time.Now()
		_, err := l.enter(t.Context(), "acme")
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || e.Class != oci.Policy || e.HTTPStatus() != http.StatusServiceUnavailable {
			t.Errorf("after the wait: %v", err)
		}
		if waited := time.Since(begun); waited != waitInLine {
			t.Errorf("it waited %v", waited)
		}

		gone := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		c := enterLater(ctx, l, "acme")
		waiting(t, c)
		cancel(gone)
		if e := came(t, c); !errors.Is(e.err, gone) {
			t.Errorf("a client that left: %+v", e)
		}
		if len(s.line) != 0 {
			t.Error("who gave up is still in line")
		}
		l.leave(s)
		l.leave(mustEnter(t, l, "acme"))
	})
}

// Requests that were let in before a change count after it.
func TestLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limits{}
		l.Set(map[string]int{"acme": 2})
		a, b := mustEnter(t, l, "acme"), mustEnter(t, l, "acme")
		c := enterLater(t.Context(), l, "acme")
		waiting(t, c)
		l.Set(map[string]int{"acme": 3})
		third := came(t, c)

		l.Set(map[string]int{"acme": 1})
		l.leave(a)
		l.leave(b)
		d := enterLater(t.Context(), l, "acme")
		waiting(t, d)
		l.Set(nil) // the organisation is gone: it is refused elsewhere
		fourth := came(t, d)
		l.leave(third.share)
		l.leave(fourth.share)
		if s, err := l.enter(t.Context(), "acme"); s != nil || err != nil {
			t.Errorf("without a limit: %v, %v", s, err)
		}
	})
}

func TestLimitsNone(t *testing.T) {
	var none *Limits
	s, err := none.enter(t.Context(), "acme")
	none.leave(s)
	if s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
}

// Over the wire: one organisation at its limit, and the others.
func TestLimitsOfOneOrganisation(t *testing.T) {
	limits := &Limits{}
	limits.Set(map[string]int{"acme": 1, "globex": 1})
	s := tokenSite(t, func(o *Options) { o.Limits = limits })
	withManifest(s, manifestThing())
	acme, globex := basicHeader("acme", "acme-canary-secret"), basicHeader("globex", "globex-canary-secret")

	inside, hold := make(chan struct{}), make(chan struct{})
	s.fake.before = func(context.Context, string) error {
		inside <- struct{}{}
		<-hold
		return nil
	}
	var wg sync.WaitGroup
	pull := func() { s.get("/v2/nginx/manifests/1", acme...).wants(t, http.StatusOK) }
	wg.Go(pull)
	<-inside
	wg.Go(pull)
	for limits.inLine("acme") == 0 {
		runtime.Gosched()
	}
	s.get("/v2/nginx/manifests/1", acme...).
		header(t, "Retry-After", "5").
		refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "organisation acme: 1 of its requests")
	if got := s.value("berth_pull_failures_total", "organisation", "acme", "registry", "docker.io", "reason", "policy"); got != 1 {
		t.Errorf("%v failures counted", got)
	}
	s.get("/v2/", acme...).wants(t, http.StatusOK)
	s.fake.setBefore(nil)
	s.get("/v2/nginx/manifests/1", globex...).wants(t, http.StatusOK)
	close(hold)
	wg.Wait()
	pull() // nothing was kept
}

func (l *Limits) inLine(organisation string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.shares[organisation].line)
}

func (f *fake) setBefore(before func(context.Context, string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}
