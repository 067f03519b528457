package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
	"berth/oci"
)

// stalling gives its text, and then nothing until its request ends.
func stalling(text string) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp := replyWith(200, "")
		resp.ContentLength = int64(len(text)) + 100
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(text), &dripping{ctx: r.Context(), every: 24 * time.Hour}))
		return resp, nil
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, err := play(t.Context(), t, roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := stalling("abc").RoundTrip(r)
			resp.ContentLength += smallPiece
			return resp, err
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Body.Close()
		buf := make([]byte, 3)
		if _, err := io.ReadFull(c.Body, buf); err != nil {
			t.Fatal(err)
		}
		// The caller's own pauses are not the registry's.
		time.Sleep(10 * stallLimit) // fake time
		start := time.Now()
		_, err = c.Body.Read(buf)
		wantClass(t, err, oci.Timeout)
		if took := time.Since(start); took != stallLimit {
			t.Errorf("after %v", took)
		}
	})
}

func TestSlowButSteadyIsFine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, err := play(t.Context(), t, roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := replyWith(200, "", "Docker-Content-Digest", anObject.Digest.String())
			resp.ContentLength, resp.Body = 50, struct {
				io.Reader
				io.Closer
			}{io.LimitReader(&dripping{ctx: r.Context(), every: smallStall - time.Second}, 50), io.NopCloser(nil)}
			return resp, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(readAll(t, c)); n != 50 {
			t.Errorf("%d bytes", n)
		}
	})
}

// Small answers have a limit on the whole: nobody waits hours for a manifest.
func TestDrippingManifest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := inMemoryRegistry(t, func(r *http.Request) (*http.Response, error) {
			resp := replyWith(200, "", "Content-Type", index)
			resp.ContentLength, resp.Body = -1, &dripping{ctx: r.Context(), every: time.Second}
			return resp, nil
		})
		start := time.Now()
		_, err := r.As(Identity{}).Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: anObject.Digest}, oci.Range{})
		wantClass(t, err, oci.Timeout)
		if took := time.Since(start); took != smallLimit {
			t.Errorf("after %v", took)
		}
	})
}

// The text of an error only explains: the status is known without it.
func TestDrippingError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, _, err := play(t.Context(), t, roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := replyWith(404, "")
			resp.ContentLength, resp.Body = -1, &dripping{ctx: r.Context(), every: time.Second}
			return resp, nil
		}))
		wantClass(t, err, oci.NotFound)
		if took := time.Since(start); took != errorLimit {
			t.Errorf("after %v", took)
		}
	})
}

// The limit for a call ends with the header: a long body outlives it.
func TestBodyOutlivesOpenLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, err := play(t.Context(), t, ok)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * openLimit) // fake time
		if got := readAll(t, c); string(got) != "content" {
			t.Errorf("%q", got)
		}
	})
}

// turns are how many calls are under way.
func turns(r *Registry) int64 {
	requests, blobs := r.host.InUse()
	return requests + blobs
}

// As many blobs as there are connections are under way; the next waits for its turn,
// and the wait is not the registry's time.
func TestTurn_OneForEachBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := twoAtOnce(t)
		open := func(ctx context.Context) *oci.Content {
			c, err := src.Open(ctx, anObject, oci.Range{})
			if err != nil {
				t.Error(err)
				return nil
			}
			return c
		}
		first, second := open(t.Context()), open(t.Context())
		done := make(chan *oci.Content)
		go func() { done <- open(t.Context()) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("a third blob did not wait")
		default:
		}
		if _, err := src.Stat(t.Context(), anObject); err != nil { // small questions have turns of their own
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), idleLimit/2)
		defer cancel()
		if _, err := src.Open(ctx, anObject, oci.Range{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller who leaves: %v", err)
		}
		_ = first.Body.Close()
		_ = first.Body.Close() // closing twice gives back one turn
		third := <-done
		if n := turns(r); n != 2 {
			t.Errorf("%d turns are taken", n)
		}
		_ = second.Body.Close()
		_ = third.Body.Close()
		if n := turns(r); n != 0 {
			t.Errorf("%d turns are lost", n)
		}
	})
}

func twoAtOnce(t *testing.T) (*Registry, oci.Source) {
	t.Helper()
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth, Hosts: &limit.Hosts{Connections: 2}})
	r.meta, r.blob = ok, ok
	return r, r.As(Identity{})
}

// A client that takes its time has no turn meanwhile, and waits for one when it goes on.
func TestTurn_NotWhileTheClientIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := twoAtOnce(t)
		var all []*oci.Content
		for range 6 {
			c, err := src.Open(t.Context(), anObject, oci.Range{})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
			time.Sleep(idleLimit)
			synctest.Wait()
			if n := turns(r); n != 0 {
				t.Fatalf("%d turns are taken by those that do not read", n)
			}
		}
		one := make([]byte, 1)
		for _, c := range all[:2] {
			if _, err := c.Body.Read(one); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		if _, err := all[2].Body.Read(one); err != nil || time.Since(begun) != idleLimit {
			t.Errorf("the third that reads went on after %v, %v", time.Since(begun), err)
		}
		for _, c := range all {
			_ = c.Body.Close()
		}
		if n := turns(r); n != 0 {
			t.Errorf("%d turns are lost", n)
		}
	})
}

// Who waits for his own bandwidth has no turn meanwhile, and goes on in the end.
func TestTurn_NotWhileBandwidthMakesItWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := &limit.Hosts{Connections: 2}
		hosts.SetBandwidth(0, map[string]int64{"globex": 16 << 10})
		r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth, Hosts: hosts})
		large := strings.Repeat("x", 1<<20)
		r.blob = roundTripper(func(*http.Request) (*http.Response, error) { return replyWith(200, large), nil })
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				c, err := r.As(Identity{Organisation: "globex"}).Open(t.Context(), anObject, oci.Range{})
				if err != nil {
					t.Error(err)
					return
				}
				if n := len(readAll(t, c)); n != len(large) {
					t.Errorf("%d bytes", n)
				}
				_ = c.Body.Close()
			})
		}
		time.Sleep(10 * time.Second)
		for range 3 {
			begun := time.Now()
			c, err := r.As(Identity{Organisation: "acme"}).Open(t.Context(), anObject, oci.Range{})
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took > idleLimit {
				t.Errorf("another organisation waited %v", took)
			}
			_ = c.Body.Close()
			time.Sleep(700 * time.Millisecond)
		}
		wg.Wait()
		if n := turns(r); n != 0 {
			t.Errorf("%d turns are lost", n)
		}
	})
}

// Errors give the turn back too.
func TestTurn_AfterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []http.RoundTripper{
			status(404), status(206, "Content-Range", "rubbish"), failing(errors.New("odd")), status(302),
			roundTripper(func(*http.Request) (*http.Response, error) {
				return replyWith(200, "other", "Content-Encoding", "gzip"), nil
			}),
			roundTripper(func(*http.Request) (*http.Response, error) {
				return replyWith(200, "a page", "Content-Type", "text/html"), nil
			}),
		} {
			r := inMemoryRegistry(t, step.RoundTrip)
			if _, err := r.As(Identity{}).Open(t.Context(), anObject, oci.Range{Start: 1}); err == nil {
				t.Errorf("%T: no error", step)
			}
			if n := turns(r); n != 0 {
				t.Errorf("%d turns are lost", n)
			}
		}
	})
}
