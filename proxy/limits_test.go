package proxy

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"berth/internal/limit"
	"berth/oci"
)

// Over the wire: one organisation at its limit, and the others.
func TestLimiter_ofOneOrganisation(t *testing.T) {
	limiter := &limit.Pool{}
	limiter.SetLimits(map[string]int{"acme": 1, "globex": 1})
	s := tokenSite(t, func(o *Options) { o.Limiter = limiter })
	withManifest(s, manifestThing())
	acme, globex := basicHeader("acme", "acme-canary-secret"), basicHeader("globex", "globex-canary-secret")

	inside, open := s.fake.holds(t)
	answers := make(chan answer, 3)
	pull := func() { answers <- s.get("/v2/nginx/manifests/1", acme...) }
	go pull()
	<-inside
	// The queue has room for one of these, so the other is refused at once.
	go pull()
	go pull()
	(<-answers).header(t, "Retry-After", "5").
		refuses(t, http.StatusServiceUnavailable, oci.CodeUnknown, "organisation acme: 1 of its requests")
	if got := s.value("berth_pull_failures_total", "organisation", "acme", "registry", "docker.io", "reason", "policy"); got != 1 {
		t.Errorf("%v failures counted", got)
	}
	s.get("/v2/", acme...).wants(t, http.StatusOK)
	s.fake.setBefore(nil)
	s.get("/v2/nginx/manifests/1", globex...).wants(t, http.StatusOK)
	open()
	for range 2 { // or the next one might find one running and one waiting still
		(<-answers).wants(t, http.StatusOK)
	}
	pull() // the slots are given back
	(<-answers).wants(t, http.StatusOK)
}

func (f *fake) setBefore(before func(context.Context, string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

// holds lets each question to f wait until open; inside says that one does.
func (f *fake) holds(t *testing.T) (inside <-chan struct{}, open func()) {
	came, hold := make(chan struct{}, 10), make(chan struct{})
	f.setBefore(func(context.Context, string) error {
		came <- struct{}{}
		<-hold
		return nil
	})
	open = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(open)
	return came, open
}
