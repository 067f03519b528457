package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

var (
	anObject = oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf([]byte("content"))}
	errReset = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
)

// script answers the n-th request with its n-th step, and all later ones with
// the last. It keeps when they came.
type script struct {
	steps []http.RoundTripper
	times []time.Duration
	start time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	step := s.steps[min(len(s.times), len(s.steps)-1)]
	s.times = append(s.times, time.Since(s.start))
	return step.RoundTrip(r)
}

func status(code int, pairs ...string) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) { return replyWith(code, "content", pairs...), nil })
}

func failing(err error) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
}

var hanging = roundTripper(func(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
})

// play opens a blob at a registry that follows the script.
func play(ctx context.Context, t *testing.T, steps ...http.RoundTripper) (*script, *oci.Content, error) {
	t.Helper()
	s := &script{steps: steps, start: time.Now()}
	r := inMemoryRegistry(t, s.RoundTrip)
	c, err := r.As(Identity{}).Open(ctx, anObject, oci.Range{})
	return s, c, err
}

var ok = roundTripper(func(*http.Request) (*http.Response, error) {
	return replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String()), nil
})

// The schedule: a quarter of a second, doubled, plus or minus a half.
func TestBackoff(t *testing.T) {
	for name, step := range map[string]http.RoundTripper{
		"500": status(500), "502": status(502), "503": status(503), "504": status(504), "522": status(522), "408": status(408),
		"reset": failing(errReset), "EOF": failing(io.EOF), "refused": failing(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}),
		"no such host for now": failing(&net.DNSError{IsTemporary: true}),
	} {
		synctest.Test(t, func(t *testing.T) {
			s, c, err := play(t.Context(), t, step, step, step, ok)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			readAll(t, c)
			if len(s.times) != 4 {
				t.Fatalf("%s: %d tries", name, len(s.times))
			}
			for i, want := range []time.Duration{firstWait, 2 * firstWait, 4 * firstWait} {
				if got := s.times[i+1] - s.times[i]; got < want/2 || got > want*3/2 {
					t.Errorf("%s: wait %d is %v, want %v plus or minus half", name, i, got, want)
				}
			}
		})
	}
}

func TestGivesUpAfterThreeRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, err := play(t.Context(), t, status(503, "Retry-After", "0"))
		e := classed(t, err, oci.UpstreamError)
		if len(s.times) != 4 || e.Message == "" {
			t.Errorf("%d tries: %v", len(s.times), err)
		}
	})
}

func TestNotRetried(t *testing.T) {
	for name, step := range map[string]http.RoundTripper{
		"400": status(400), "401": status(401), "403": status(403), "404": status(404), "410": status(410), "416": status(416), "501": status(501), "505": status(505),
		"refused address": failing(&net.OpError{Op: "dial", Err: &refusal{why: "a private address"}}),
		"no such host":    failing(&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}),
		"long 429":        status(429, "Retry-After", "60"),
		"429, 10 s":       status(429, "Retry-After", "10"),
		"503, 10 s":       status(503, "Retry-After", "10"),
		"long 503":        status(503, "Retry-After", "60"),
		"empty limit":     status(429, "Ratelimit-Remaining", "0;w=21600"),
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _, err := play(t.Context(), t, step)
			if err == nil || len(s.times) != 1 || time.Since(s.start) != 0 {
				t.Errorf("%s: %d tries in %v, %v", name, len(s.times), time.Since(s.start), err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for name, test := range map[string]struct {
		header   func() []string
		min, max time.Duration // of the first wait
	}{
		"seconds":  {func() []string { return []string{"Retry-After", "2"} }, 2 * time.Second, 2 * time.Second},
		"at once":  {func() []string { return []string{"Retry-After", "0"} }, firstWait / 2, firstWait * 3 / 2},
		"fraction": {func() []string { return []string{"Retry-After", "1.5"} }, 1500 * time.Millisecond, 1500 * time.Millisecond},
		"date": {func() []string {
			return []string{"Retry-After", time.Now().Add(3 * time.Second).UTC().Format(http.TimeFormat)}
		}, 2 * time.Second, 3 * time.Second},
		"their clock": {func() []string {
			return []string{"Retry-After", "Sun, 06 Nov 1994 08:49:39 GMT", "Date", "Sun, 06 Nov 1994 08:49:37 GMT"}
		}, 2 * time.Second, 2 * time.Second},
		"a date behind": {func() []string { return []string{"Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"} }, firstWait / 2, firstWait * 3 / 2},
		"nothing said":  {func() []string { return nil }, unsaidPause, unsaidPause},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, c, err := play(t.Context(), t, status(429, test.header()...), ok)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			readAll(t, c)
			if got := s.times[1]; got < test.min || got > test.max {
				t.Errorf("%s: waited %v, want %v to %v", name, got, test.min, test.max)
			}
		})
	}
}

// A 429 that does not say how long gets two more tries, not three.
func TestSilent429(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, err := play(t.Context(), t, status(429))
		wantClass(t, err, oci.RateLimited)
		if len(s.times) != 1+maxUnsaid {
			t.Errorf("%d tries", len(s.times))
		}
	})
}

func TestLongRetryAfterIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, err := play(t.Context(), t, status(429, "Retry-After", "2520"))
		if e := classed(t, err, oci.RateLimited); e.RetryAfter != 42*time.Minute {
			t.Errorf("RetryAfter %v", e.RetryAfter)
		}
	})
}

// Everything until the header fits into the limit for a call.
func TestOpenLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, err := play(t.Context(), t, hanging)
		wantClass(t, err, oci.Timeout)
		if took := time.Since(s.start); took != openLimit || len(s.times) != 1 {
			t.Errorf("%v, %d tries", took, len(s.times))
		}
	})
}

// An answer that comes when the request is over is none.
func TestAnswerAfterTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := false
		_, _, err := play(t.Context(), t, roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(openLimit + time.Second) // fake time
			resp := replyWith(200, "content")
			resp.Body = &tracked{resp.Body, func() { closed = true }}
			return resp, nil
		}))
		wantClass(t, err, oci.Timeout)
		if !closed {
			t.Error("its body is open")
		}
	})
}

func TestNoTryThatCannotEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, _, err := play(ctx, t, status(503, "Retry-After", "2"))
		wantClass(t, err, oci.UpstreamError)
		if took := time.Since(s.start); took != 0 || len(s.times) != 1 {
			t.Errorf("%v, %d tries", took, len(s.times))
		}
	})
}

func TestCallerLeavesDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		s, _, err := play(ctx, t, status(503, "Retry-After", "2"))
		if !errors.Is(err, context.Canceled) || oci.ClassOf(err) != oci.ClientGone {
			t.Errorf("%v", err)
		}
		if _, ok := errors.AsType[*oci.Error](err); ok {
			t.Errorf("%v blames the registry", err)
		}
		if took := time.Since(s.start); took != time.Second || len(s.times) != 1 {
			t.Errorf("%v, %d tries", took, len(s.times))
		}
	})
}

func TestCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, _, err := play(ctx, t, hanging)
		wantClass(t, err, oci.Timeout)
	})
}

// A registry that only fails is asked a tenth more, and the floor's worth. (408
// leaves the breaker alone, which would end this earlier.)
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := inMemoryRegistry(t, func(*http.Request) (*http.Response, error) {
			tries++
			return replyWith(408, ""), nil
		})
		src := r.As(Identity{})
		start := time.Now()
		const calls = 1000
		for range calls {
			_, err := src.Open(t.Context(), anObject, oci.Range{})
			wantClass(t, err, oci.Timeout)
		}
		extra, allowed := tries-calls, budgetMax+budgetShare*calls+budgetPerSec*time.Since(start).Seconds()
		if float64(extra) > allowed+1 || float64(extra) < allowed-2 {
			t.Errorf("%d retries for %d calls in %v, want about %.0f", extra, calls, time.Since(start), allowed)
		}
	})
}

// A quiet origin gets its retries back, up to the most that can be saved.
func TestBudgetFloor(t *testing.T) {
	now := time.Now()
	b := newBudget(now)
	spent := func() (n int) {
		for b.spend(now) {
			n++
		}
		return n
	}
	if n := spent(); n != budgetMax {
		t.Errorf("%d at the start", n)
	}
	now = now.Add(10 * time.Second)
	if n := spent(); n != int(10*budgetPerSec) {
		t.Errorf("%d after 10 s", n)
	}
	now = now.Add(24 * time.Hour)
	if n := spent(); n != budgetMax {
		t.Errorf("%d after a day", n)
	}
	for range 30 {
		b.earn()
	}
	if n := spent(); n != 2 && n != 3 {
		t.Errorf("%d after 30 requests", n)
	}
}

// Every answer that is not the result is closed.
func TestRetriesCloseBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := 0
		track := func(r *http.Response) *http.Response {
			open++
			r.Body = &tracked{r.Body, func() { open-- }}
			return r
		}
		step := roundTripper(func(*http.Request) (*http.Response, error) { return track(replyWith(503, "busy")), nil })
		_, c, err := play(t.Context(), t, step, step, roundTripper(func(*http.Request) (*http.Response, error) {
			return track(replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String())), nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		if open != 1 {
			t.Errorf("%d bodies are open", open)
		}
		readAll(t, c)
		if open != 0 {
			t.Errorf("%d bodies are open at the end", open)
		}
		for _, code := range []int{404, 503, 302, 204} {
			_, _, err = play(t.Context(), t, roundTripper(func(*http.Request) (*http.Response, error) { return track(replyWith(code, "x")), nil }))
			if err == nil || open != 0 {
				t.Errorf("%d: %v, %d bodies are open", code, err, open)
			}
		}
	})
}

type tracked struct {
	io.ReadCloser
	closed func()
}

func (b *tracked) Close() error {
	if b.closed != nil {
		b.closed()
		b.closed = nil
	}
	return b.ReadCloser.Close()
}

// What is sent to get a token by POST is never sent twice.
func TestPostIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := inMemoryRegistry(t, func(*http.Request) (*http.Response, error) {
			tries++
			return nil, errReset
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://registry.test/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&authTransport{r}).RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if tries != 1 {
			t.Errorf("%d tries", tries)
		}
		wantClass(t, err, oci.Unreachable)
	})
}

// The body of a token answer that drips ends with the time for a call.
func TestDrippingToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := inMemoryRegistry(t, func(r *http.Request) (*http.Response, error) {
			resp := replyWith(200, "")
			resp.ContentLength, resp.Body = -1, &dripping{ctx: r.Context(), every: time.Second}
			return resp, nil
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.test/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := (&authTransport{r}).RoundTrip(req); oci.ClassOf(err) != oci.Timeout || time.Since(start) > openLimit {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// dripping gives a byte now and then, until its request ends.
type dripping struct {
	ctx   context.Context
	every time.Duration
}

func (d *dripping) Read(p []byte) (int, error) {
	timer := time.NewTimer(d.every)
	defer timer.Stop()
	select {
	case <-timer.C:
		p[0] = 'x'
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (d *dripping) Close() error { return nil }

// A server that takes the request and says nothing, over the real transport:
// eight seconds for the header, one more try, fifteen for all.
func TestHeaderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: "registry.test"}, Before: withoutAuth})
		var dials []time.Duration
		start := time.Now()
		r.conns.dial = func(context.Context, string, string) (net.Conn, error) {
			dials = append(dials, time.Since(start))
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					_, _ = io.Copy(io.Discard, server)
				}
			}()
			return client, nil
		}
		_, err := r.As(Identity{}).Resolve(t.Context(), "acme/app", "v1")
		wantClass(t, err, oci.Timeout)
		if took := time.Since(start); took != openLimit || len(dials) != 2 || dials[1] < headerTimeout {
			t.Errorf("%v, dials at %v", took, dials)
		}
		synctest.Wait()
	})
}
