package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/auth/credential"
	"berth/oci"
)

func blobOf(repo string) oci.Object {
	return oci.Object{Repo: repo, Kind: oci.Blob, Digest: anObject.Digest}
}

// troubled is a registry whose answers the test changes.
type troubled struct {
	*Registry

	mu    sync.Mutex
	step  http.RoundTripper
	tries atomic.Int64 // also by the node itself
}

func (r *troubled) set(step http.RoundTripper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = step
}

func (r *troubled) stepNow() http.RoundTripper {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.step
}

func (r *troubled) count() int { return int(r.tries.Load()) }

func newTroubled(t *testing.T, step http.RoundTripper) *troubled {
	t.Helper()
	r := &troubled{step: step}
	r.Registry = inMemoryRegistry(t, func(req *http.Request) (*http.Response, error) {
		r.tries.Add(1)
		return r.stepNow().RoundTrip(req)
	})
	return r
}

// call opens a blob of repo, and says how long that took, how many requests it
// cost, and what it came to.
func (r *troubled) call(t *testing.T, repo string) (took time.Duration, tries int, err error) {
	t.Helper()
	before, start := r.count(), time.Now()
	c, err := r.As(Identity{}).Open(t.Context(), blobOf(repo), oci.Range{})
	if err == nil {
		readAll(t, c)
	}
	return time.Since(start), r.count() - before, err
}

// Whatever kind of fault it is: after several in a row calls are answered from
// memory, in the same class, and one in a second finds out.
func TestBreaker(t *testing.T) {
	for name, c := range map[string]struct {
		step  http.RoundTripper
		class oci.Class
		after int // tries until it opens
	}{
		"503":     {status(503), oci.UpstreamError, 10},
		"500":     {status(500), oci.UpstreamError, 20},
		"522":     {status(522), oci.UpstreamError, 10},
		"reset":   {failing(errReset), oci.Unreachable, 5},
		"refused": {failing(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), oci.Unreachable, 5},
		"DNS":     {failing(&net.DNSError{IsNotFound: true}), oci.Unreachable, 5},
		"cut":     {failing(io.ErrUnexpectedEOF), oci.Unreachable, 5},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newTroubled(t, c.step)
			for range 30 {
				_, _, err := r.call(t, "acme/app")
				wantClass(t, err, c.class)
				if r.origin.open() {
					break
				}
			}
			if r.count() != c.after {
				t.Errorf("%s: open after %d tries, want %d", name, r.count(), c.after)
			}
			if got := testutil.ToFloat64(r.metrics.open.WithLabelValues("registry.test")); got != 1 {
				t.Errorf("%s: the gauge is %v", name, got)
			}
			took, tries, err := r.call(t, "acme/app")
			e := classed(t, err, c.class)
			if tries != 0 || took != 0 || e.Detail == "" || !strings.HasPrefix(e.Message, "registry.test, asked for acme/app, ") {
				t.Errorf("%s: %d tries, %v, %+v", name, tries, took, e)
			}
			r.set(ok)
			time.Sleep(probeEvery)
			if _, tries, err := r.call(t, "acme/app"); err != nil || tries != 1 || r.origin.open() {
				t.Errorf("%s: afterwards %v, %d tries", name, err, tries)
			}
			if got := testutil.ToFloat64(r.metrics.open.WithLabelValues("registry.test")); got != 0 {
				t.Errorf("%s: the gauge is %v afterwards", name, got)
			}
		})
	}
}

// A silent registry costs those who wait eight seconds a try: three are enough.
func TestBreakerOfASilentRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, hanging)
		for i := range 3 {
			if r.origin.open() {
				t.Fatalf("open after %d calls", i)
			}
			took, _, err := r.call(t, "acme/app")
			wantClass(t, err, oci.Timeout)
			if took > openLimit {
				t.Errorf("it took %v", took)
			}
		}
		if took, tries, err := r.call(t, "acme/app"); oci.ClassOf(err) != oci.Timeout || took != 0 || tries != 0 {
			t.Errorf("%v, %v, %d tries", err, took, tries)
		}
	})
}

// What is no fault of the network never opens it, and takes back what was held
// against the registry.
func TestBreakerStaysClosed(t *testing.T) {
	for name, step := range map[string]http.RoundTripper{
		"404": status(404), "401": status(401), "403": status(403), "200": ok, "429": status(429, "Retry-After", "60"),
		"408": status(408), "refused address": failing(&refusal{why: "a private address"}),
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newTroubled(t, step)
			for i := range 30 {
				_, _, _ = r.call(t, fmt.Sprint("acme/", i))
			}
			if r.origin.open() {
				t.Errorf("%s opened it", name)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // four faults, and an answer
		r := newTroubled(t, nil)
		r.step = roundTripper(func(*http.Request) (*http.Response, error) {
			if r.count()%5 == 0 {
				return replyWith(200, "content"), nil
			}
			return nil, errReset
		})
		for range 100 {
			_, _, _ = r.call(t, "acme/app")
		}
		if r.origin.open() {
			t.Error("answers in between do not count")
		}
	})
}

// The caller who leaves says nothing about the registry.
func TestBreakerAndCallersWhoLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, hanging)
		for range 30 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if _, err := r.As(Identity{}).Open(ctx, anObject, oci.Range{}); err == nil {
				t.Error("no error")
			}
			cancel()
		}
		if r.origin.open() {
			t.Error("it opened")
		}
	})
}

// Ten minutes of a dead registry: one request a second, and not from the one
// image that always fails when another wants to know.
func TestBreakerAsksOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, failing(errReset))
		for !r.origin.open() {
			_, _, _ = r.call(t, "acme/app")
		}
		r.tries.Store(0)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				for time.Since(start) < 10*time.Minute {
					_, _, _ = r.call(t, fmt.Sprint("acme/", i))
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		all.Wait()
		if r.count() < 590 || r.count() > 600 {
			t.Errorf("%d requests in ten minutes", r.count())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, roundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, "acme/broken") {
				return replyWith(503, ""), nil
			}
			return replyWith(200, "content"), nil
		}))
		for !r.origin.open() {
			_, _, _ = r.call(t, "acme/broken")
		}
		var hammering sync.WaitGroup
		defer hammering.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		hammering.Go(func() {
			for ctx.Err() == nil {
				_, _, _ = r.call(t, "acme/broken")
				time.Sleep(10 * time.Millisecond)
			}
		})
		for range 20 {
			time.Sleep(310 * time.Millisecond)
			if _, _, err := r.call(t, "acme/fine"); err == nil {
				return
			}
		}
		t.Error("one image that fails keeps another away")
	})
}

// as is a source of organisation, with an account.
func (r *troubled) as(organisation string) *source {
	return &source{Registry: r.Registry, id: Identity{Organisation: organisation, Credential: func(context.Context, string) (*credential.Credential, error) {
		return &credential.Credential{Organisation: organisation, Name: "ci", Fingerprint: organisation, Version: organisation}, nil
	}}}
}

// stat asks organisation's question about a blob, and says how many requests that cost.
func (r *troubled) stat(t *testing.T, organisation, repo string) (tries int, err error) {
	t.Helper()
	before := r.count()
	_, err = r.as(organisation).Stat(t.Context(), blobOf(repo))
	return r.count() - before, err
}

// failsFor answers refuses with 403, all else in repositories that begin with one of bad by
// fault, and has everything else.
func failsFor(fault http.RoundTripper, refuses string, bad ...string) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		path := strings.TrimPrefix(req.URL.Path, "/v2/")
		if refuses != "" && strings.HasPrefix(path, refuses) {
			return replyWith(403, `{"errors":[{"code":"DENIED"}]}`, "Content-Type", "application/json"), nil
		}
		for _, prefix := range bad {
			if strings.HasPrefix(path, prefix) {
				return fault.RoundTrip(req)
			}
		}
		return replyWith(206, "c", "Content-Range", "bytes 0-0/7"), nil
	})
}

// One organisation's requests always fail, under new names each time, while nobody else
// asks: what others ask for goes out at once, and what the registry says to the
// organisation itself about something else is heard.
func TestBreaker_OneOrganisationIsAlone(t *testing.T) {
	for name, fault := range map[string]http.RoundTripper{"502": status(502), "500": status(500), "reset": failing(errReset), "silence": hanging} {
		synctest.Test(t, func(t *testing.T) {
			r := newTroubled(t, failsFor(fault, "acme/app", "globex/"))
			for i := 0; !r.origin.open(); i++ {
				if _, err := r.stat(t, "globex", fmt.Sprint("globex/", i)); err == nil || i > 2*breakerLimit {
					t.Fatalf("%s: %v after %d", name, err, i)
				}
			}
			if err := r.as("globex").Trouble("acme/app"); err != nil {
				t.Errorf("%s: before anything is asked: %v", name, err)
			}
			before := r.count()
			for range 5 {
				if _, err := r.stat(t, "globex", "globex/again"); !oci.Indeterminate(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if n := r.count() - before; n != 1 {
				t.Errorf("%s: one failing object cost %d requests within a second", name, n)
			}
			if tries, err := r.stat(t, "globex", "acme/app"); tries != 1 || oci.ClassOf(err) != oci.Denied {
				t.Errorf("%s: what the registry refuses: %d requests, %v", name, tries, err)
			}
			for i := 0; !r.origin.open(); i++ {
				_, _ = r.stat(t, "globex", fmt.Sprint("globex/new-", i)) // it fails
			}
			if tries, err := r.stat(t, "initech", "initech/app"); tries != 1 || err != nil {
				t.Errorf("%s: another organisation: %d requests, %v", name, tries, err)
			}
		})
	}
}

// A registry that nobody reaches, or that fails for two, is left alone by everybody; one
// organisation's faults are never more than half of that.
func TestBreaker_WhatOpensItForAll(t *testing.T) {
	refused := failing(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	for name, c := range map[string]struct {
		fault http.RoundTripper
		who   []string
		all   bool
	}{
		"no connection":          {refused, []string{"globex"}, true},
		"one organisation's 502": {status(502), []string{"globex"}, false},
		"502 of two":             {status(502), []string{"globex", "initech"}, true},
		"silence to two":         {hanging, []string{"globex", "initech"}, true},
		"silence to one":         {hanging, []string{"globex"}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newTroubled(t, failsFor(c.fault, "", ""))
			for i := range 2 * breakerLimit {
				_, _ = r.stat(t, c.who[i%len(c.who)], fmt.Sprint("app-", i)) // it fails
			}
			if _, all := r.origin.trouble(); all != c.all {
				t.Errorf("%s: open for all: %v", name, all)
			}
			if told := r.as("acme").Trouble("acme/app"); (told != nil) != c.all {
				t.Errorf("%s: another one is told %v", name, told)
			}
			tries, err := r.stat(t, "acme", "acme/app")
			if c.all && tries > 0 || !c.all && tries == 0 || err == nil {
				t.Errorf("%s: another one's question costs %d requests: %v", name, tries, err)
			}
		})
	}
	b, now := newBreaker(func(bool) {}), time.Now()
	for range 100 {
		b.failed(oci.Behalf{Payer: "globex"}, weighsGateway, fault{status: 502, at: now}, now)
	}
	b.failed(oci.Behalf{Payer: "initech"}, weighsTimeout, fault{err: errNoHeader, at: now}, now)
	if _, all := b.trouble(); all {
		t.Error("one timeout of another's beside one organisation's faults opens it for all")
	}
}

// A try whose client has left came to nothing: it is no answer for those who come next.
func TestBreaker_ATryThatWasLeftIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, failsFor(status(502), "acme/app", "globex/"))
		for i := 0; !r.origin.open(); i++ {
			_, _ = r.stat(t, "globex", fmt.Sprint("globex/", i)) // it fails
		}
		r.set(hanging)
		ctx, leave := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer leave()
		if _, err := r.as("globex").Stat(ctx, blobOf("acme/app")); err == nil {
			t.Error("an answer")
		}
		r.set(failsFor(status(502), "acme/app", "globex/"))
		time.Sleep(tryFor)
		if tries, err := r.stat(t, "globex", "acme/app"); tries != 1 || oci.ClassOf(err) != oci.Denied {
			t.Errorf("%d requests, %v", tries, err)
		}
	})
}

// A source says without asking that there is no point in waiting.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, failing(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}))
		src := &source{Registry: r.Registry, id: Identity{Organisation: "acme"}}
		if err := src.Trouble("acme/app"); err != nil {
			t.Errorf("trouble at the start: %v", err)
		}
		for !r.origin.open() {
			_, _, _ = r.call(t, "acme/app")
		}
		time.Sleep(time.Hour)
		if e := classed(t, src.Trouble("acme/app"), oci.Unreachable); !strings.HasPrefix(e.Message, "organisation acme: registry.test, asked for acme/app, ") {
			t.Errorf("%q", e.Message)
		}
	})
}

// However calls that open it and calls that close it fall together: the gauge says
// what it is in the end.
func TestBreakerGaugeIsRightInTheEnd(t *testing.T) {
	r := inMemoryRegistry(t, func(*http.Request) (*http.Response, error) { return nil, io.EOF })
	for range 3000 {
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() { r.origin.failed(oci.Behalf{}, breakerLimit, fault{at: time.Now()}, time.Now()) })
			calls.Go(r.origin.answered)
		}
		calls.Wait()
		want := 0.0
		if r.origin.open() {
			want = 1
		}
		if got := testutil.ToFloat64(r.metrics.open.WithLabelValues("registry.test")); got != want {
			t.Fatalf("the gauge says %v, and it is %v", got, want)
		}
	}
}
