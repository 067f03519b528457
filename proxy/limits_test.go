package proxy

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

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

// Manifests and lists are in memory until their clients have taken them: what an
// organisation has there of one registry is bounded, and others do not wait for it.
func TestMemory_OfManifestsAndLists(t *testing.T) {
	memory := &limit.Pool{Most: 2 * oci.MaxManifest}
	s := tokenSite(t, func(o *Options) { o.Memory = memory })
	withManifest(s, manifestThing())
	s.fake.page = &oci.Page{Body: bytes.Repeat([]byte(" "), maxList)}
	acme, globex := basicHeader("acme", "acme-canary-secret"), basicHeader("globex", "globex-canary-secret")

	inside, open := s.fake.holds(t)
	var wg sync.WaitGroup
	for range 3 { // two that the registry is slow with, and one that waits for their memory
		wg.Go(func() { s.get("/v2/nginx/manifests/1", acme...).wants(t, http.StatusOK) })
	}
	<-inside
	<-inside
	waits(t, memory, "acme", 1)
	s.fake.setBefore(nil)
	s.get("/v2/nginx/manifests/1", globex...).wants(t, http.StatusOK)
	s.head("/v2/nginx/manifests/1", acme...).wants(t, http.StatusOK)
	open()
	wg.Wait()

	// A client that takes nothing of a list that no socket holds.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+"/v2/nginx/tags/list", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("acme", "acme-canary-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { s.get("/v2/nginx/manifests/1", acme...).wants(t, http.StatusOK) })
	waits(t, memory, "acme", 1)
	s.get("/v2/nginx/manifests/1", globex...).wants(t, http.StatusOK)
	resp.Body.Close()
	wg.Wait()
}

// Where only the document tells what a manifest is, a HEAD reads it, and that counts as
// long as it is read.
func TestMemory_OfManifestsByHEAD(t *testing.T) {
	memory := &limit.Pool{Most: 2 * oci.MaxManifest}
	s := tokenSite(t, func(o *Options) { o.Memory = memory })
	d := s.fake.put("acme/app", oci.Manifest, manifestThing())
	acme := basicHeader("acme", "acme-canary-secret")
	inside, open := s.fake.holds(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { s.head("/v2/ghcr.io/acme/app/manifests/"+string(d), acme...).wants(t, http.StatusOK) })
	}
	<-inside
	<-inside
	waits(t, memory, "acme", 3)
	open()
	wg.Wait()
	if slot, err := memory.Take(t.Context(), limit.Want{Organisation: "acme", At: "ghcr.io", N: 2 * oci.MaxManifest}); err != nil {
		t.Errorf("memory is lost: %v", err)
	} else {
		slot.Release()
	}
}

func waits(t *testing.T, p *limit.Pool, organisation string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for p.Waiting()[organisation] != n {
		select {
		case <-ctx.Done():
			t.Fatalf("%d wait, want %d", p.Waiting()[organisation], n)
		case <-time.After(time.Millisecond):
		}
	}
}
