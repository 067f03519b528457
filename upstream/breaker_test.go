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

// What one organisation asks for fails always, whichever of its repositories it is about:
// another's calls find out that the registry is there.
func TestBreaker_OneOrganisationDoesNotDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, roundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.Contains(req.URL.Path, "globex/") {
				return replyWith(503, ""), nil
			}
			return replyWith(200, "content"), nil
		}))
		pull := func(organisation, repo string) error {
			c, err := r.As(Identity{Organisation: organisation}).Open(t.Context(), blobOf(repo), oci.Range{})
			if err == nil {
				readAll(t, c)
			}
			return err
		}
		var n atomic.Int64
		globex := func() { _ = pull("globex", fmt.Sprint("globex/", n.Add(1))) } // it fails
		for !r.origin.open() {
			globex()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			for ctx.Err() == nil { // it always comes before the other
				wg.Go(globex)
				time.Sleep(10 * time.Millisecond)
			}
		})
		time.Sleep(3 * time.Second)
		for range 40 {
			time.Sleep(110 * time.Millisecond)
			if pull("acme", "acme/app") == nil {
				return
			}
		}
		t.Error("one organisation's failures keep another away")
	})
}

// A source says without asking that there is no point in waiting.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTroubled(t, failing(errReset))
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
			calls.Go(func() { r.origin.failed(breakerLimit, fault{at: time.Now()}, time.Now()) })
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
