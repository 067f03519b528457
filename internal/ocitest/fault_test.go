package ocitest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/bits"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

const faultySize = 100_000

// faulty is a registry with one blob that has a fault, and the blob's bytes.
func faulty(t *testing.T, o Options, times int, f Fault) (r *Registry, path string, want []byte) {
	t.Helper()
	r = New(t, o)
	d := r.AddNoise("acme/app", 7, faultySize)
	r.Inject(Match{Kind: Blob}, times, f)
	return r, blobPath(d), r.Bytes("acme/app", d)
}

func TestStatusFault(t *testing.T) {
	r, path, want := faulty(t, Options{}, 2, Status(http.StatusTooManyRequests, "Retry-After", "7", "X-A", "1", "X-A", "2"))
	for range 2 {
		got := get(t, r, path).want(t, 429)
		if got.header.Get("Retry-After") != "7" || len(got.header.Values("X-A")) != 2 || got.code(t) != "UNKNOWN" {
			t.Errorf("%v %q", got.header, got.body)
		}
	}
	if got := get(t, r, path).want(t, 200); !bytes.Equal(got.body, want) {
		t.Error("after its times the fault goes on")
	}
	r.Inject(Match{Kind: Manifest}, 0, Denied())
	if got := get(t, r, manifestPath("v1")).want(t, 403); got.code(t) != "DENIED" {
		t.Errorf("%q", got.body)
	}
	if got := head(t, r, manifestPath("v1")).want(t, 403); len(got.body) > 0 {
		t.Errorf("an answer to HEAD has a body: %q", got.body)
	}
}

func TestCutFaults(t *testing.T) {
	for name, o := range map[string]Options{"http/1.1": {}, "https": {TLS: true}, "h2": {TLS: true, HTTP2: true}} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int64{0, 1, 70_000} {
				r, path, want := faulty(t, o, 0, CutAfter(n, CutClose))
				got := broke(t, r, path)
				if got.err == nil || int64(len(got.body)) > n || !bytes.HasPrefix(want, got.body) || got.status == 200 && got.length != faultySize {
					t.Errorf("closed after %d: %d bytes of %d, %v", n, len(got.body), got.length, got.err)
				}
				if !o.HTTP2 && (int64(len(got.body)) != n || !errors.Is(got.err, io.ErrUnexpectedEOF)) {
					t.Errorf("closed after %d: %d bytes, %v", n, len(got.body), got.err)
				}
				if sent := r.Requests(Match{Kind: Blob})[0].Sent; sent != n {
					t.Errorf("closed after %d: %d are recorded", n, sent)
				}

				r, path, want = faulty(t, o, 0, CutAfter(n, CutReset))
				got = broke(t, r, path)
				if got.err == nil || int64(len(got.body)) > n || !bytes.HasPrefix(want, got.body) {
					t.Errorf("reset after %d: %d bytes, %v", n, len(got.body), got.err)
				}
				if !o.HTTP2 && !errors.Is(got.err, syscall.ECONNRESET) {
					t.Errorf("reset after %d: %v", n, got.err)
				}

				r, path, want = faulty(t, o, 0, CutAfter(n, CutEnd))
				got = get(t, r, path).want(t, 200)
				if int64(len(got.body)) != n || !bytes.HasPrefix(want, got.body) || got.length != -1 {
					t.Errorf("ended after %d: %d bytes of %d", n, len(got.body), got.length)
				}
			}
		})
	}
}

// broke is get for an answer that may break before its headers are read.
func broke(t *testing.T, r *Registry, path string) reply {
	t.Helper()
	got, err := do(clientOf(t, r), polite(t, http.MethodGet, r.URL()+path))
	return reply{got.status, got.header, got.body, got.length, cmp.Or(err, got.err)}
}

func TestLengthFaults(t *testing.T) {
	r, path, want := faulty(t, Options{}, 0, Fault{Length: 1000})
	if got := get(t, r, path).want(t, 200); !bytes.Equal(got.body, want[:1000]) || got.length != 1000 {
		t.Errorf("shorter: %d bytes of %d", len(got.body), got.length)
	}
	r, path, want = faulty(t, Options{}, 0, Fault{Length: faultySize + 1})
	if got := get(t, r, path); !errors.Is(got.err, io.ErrUnexpectedEOF) || !bytes.Equal(got.body, want) || got.length != faultySize+1 {
		t.Errorf("longer: %d bytes of %d, %v", len(got.body), got.length, got.err)
	}
	r, path, want = faulty(t, Options{}, 0, Fault{Chunked: true})
	if got := get(t, r, path).want(t, 200); !bytes.Equal(got.body, want) || got.length != -1 {
		t.Errorf("chunked: %d bytes of %d", len(got.body), got.length)
	}
}

func TestGzipFault(t *testing.T) {
	r, path, want := faulty(t, Options{}, 0, Fault{Gzip: true})
	got := get(t, r, path).want(t, 200)
	if got.header.Get("Content-Encoding") != "gzip" || bytes.Equal(got.body, want) {
		t.Fatalf("%v", got.header)
	}
	z, err := gzip.NewReader(bytes.NewReader(got.body))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(z); err != nil || !bytes.Equal(plain, want) {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
}

func TestEndlessFault(t *testing.T) {
	r, path, want := faulty(t, Options{}, 0, Fault{Endless: true})
	res, err := clientOf(t, r).Do(polite(t, http.MethodGet, r.URL()+path))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, faultySize+3<<20)
	_, err = io.ReadFull(res.Body, got)
	if err != nil || !bytes.Equal(got[:faultySize], want) || !bytes.Equal(got[faultySize:], make([]byte, 3<<20)) || res.ContentLength != -1 {
		t.Errorf("%v, %d announced", err, res.ContentLength)
	}
	_ = res.Body.Close()
	ends(t, r)
}

// ends wants every handler to end without the registry being closed.
func ends(t *testing.T, r *Registry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon())
	defer cancel()
	if err := r.WaitInFlight(ctx, Match{}, 0); err != nil {
		t.Errorf("a handler runs on after its client has left: %v", err)
	}
}

func TestFlipFault(t *testing.T) {
	for _, at := range []int64{0, 1, 65_536, faultySize - 1} {
		r, path, want := faulty(t, Options{}, 0, FlipBit(at))
		got := get(t, r, path).want(t, 200).body
		for i := range want {
			if k := bits.OnesCount8(got[i] ^ want[i]); k != 0 && int64(i) != at || k != 1 && int64(i) == at {
				t.Fatalf("flipping byte %d: %d bits of byte %d differ", at, k, i)
			}
		}
		if again := r.Bytes("acme/app", oneBlob(r)); !bytes.Equal(again, want) {
			t.Error("the fault changed the content itself")
		}
	}
}

func oneBlob(r *Registry) oci.Digest { return r.Requests(Match{Kind: Blob})[0].Digest }

func TestRangeFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault        Fault
		status       int
		contentRange string
		from, to     int
	}{
		"none":     {Fault{}, 206, "bytes 100-199/100000", 100, 200},
		"ignored":  {Fault{IgnoreRange: true}, 200, "", 0, faultySize},
		"ahead":    {Fault{ShiftRange: -30}, 206, "bytes 70-199/100000", 70, 200},
		"behind":   {Fault{ShiftRange: 30}, 206, "bytes 130-199/100000", 130, 200},
		"a lie":    {Header("Content-Range", "bytes 0-99/100000"), 206, "bytes 0-99/100000", 100, 200},
		"no word":  {NoHeader("Content-Range"), 206, "", 100, 200},
		"no range": {Status(416), 416, "", 0, 0},
	} {
		r, path, want := faulty(t, Options{}, 0, c.fault)
		got := get(t, r, path, "Range", "bytes=100-199").want(t, c.status)
		if got.header.Get("Content-Range") != c.contentRange || c.status != 416 && !bytes.Equal(got.body, want[c.from:c.to]) {
			t.Errorf("%s: %d bytes, Content-Range %q", name, len(got.body), got.header.Get("Content-Range"))
		}
		if q := r.Requests(Match{Kind: Blob})[0]; q.Range != "bytes=100-199" || q.Header.Get("Range") != q.Range {
			t.Errorf("%s: the record has Range %q, %q", name, q.Range, q.Header.Get("Range"))
		}
	}
	r, path, want := faulty(t, Options{NoRange: true}, 0, Fault{})
	if got := get(t, r, path, "Range", "bytes=100-199").want(t, 200); !bytes.Equal(got.body, want) {
		t.Error("NoRange serves ranges")
	}
}

func TestHeaderFaults(t *testing.T) {
	r := New(t, Options{})
	_, data := addManifest(r, "v1")
	r.Inject(Match{Kind: Manifest}, 2, Header("content-type", "text/html", "Docker-Content-Digest", "sha256:0"))
	r.Inject(Match{Kind: Manifest}, 2, NoHeader("docker-content-digest", "content-type", "Content-Length"))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		got, err := do(clientOf(t, r), polite(t, method, r.URL()+manifestPath("v1")))
		if err != nil || got.header.Get("Content-Type") != "text/html" || got.header.Get("Docker-Content-Digest") != "sha256:0" {
			t.Errorf("%s: %v, %v", method, got.header, err)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		got, err := do(clientOf(t, r), polite(t, method, r.URL()+manifestPath("v1")))
		if _, ok := got.header["Content-Type"]; err != nil || ok || got.header.Get("Docker-Content-Digest") != "" {
			t.Errorf("%s: %v, %v", method, got.header, err)
		}
		if method == http.MethodGet && !bytes.Equal(got.body, data) || got.length >= 0 {
			t.Errorf("%s: %d bytes of %d", method, len(got.body), got.length)
		}
	}
}

func TestDropFault(t *testing.T) {
	for name, o := range map[string]Options{"http/1.1": {}, "https": {TLS: true}, "h2": {TLS: true, HTTP2: true}} {
		r, path, _ := faulty(t, o, 0, Drop())
		if got, err := do(clientOf(t, r), polite(t, http.MethodGet, r.URL()+path)); err == nil {
			t.Errorf("%s: a dropped request got %d", name, got.status)
		}
		if q := r.Requests(Match{Kind: Blob})[0]; q.Status != 0 || q.Sent != 0 {
			t.Errorf("%s: recorded as %s", name, q)
		}
	}
}

// The rate is exact by the clock, here a false one.
func TestSlowFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, path, want := faulty(t, Options{Net: NewMemoryNet()}, 0, Slow(10_000))
		start := time.Now()
		got := get(t, r, path).want(t, 200)
		if took := time.Since(start); took < 9*time.Second || took > 10*time.Second || !bytes.Equal(got.body, want) {
			t.Errorf("100000 bytes at 10000 in a second took %s", took)
		}
	})
}

func TestStallFault(t *testing.T) {
	r, path, want := faulty(t, Options{}, 0, Stall(60_000))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, err := clientOf(t, r).Do(polite(t, http.MethodGet, r.URL()+path).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	got := make([]byte, 60_000)
	if _, err := io.ReadFull(res.Body, got); err != nil || !bytes.Equal(got, want[:60_000]) {
		t.Errorf("before the stall: %v", err)
	}
	if q := r.Requests(Match{})[0]; q.Done || q.Sent != 60_000 {
		t.Errorf("it has not stalled: %s", q)
	}
	cancel()
	ends(t, r)
}

func TestSilenceFault(t *testing.T) {
	r, path, _ := faulty(t, Options{}, 0, Silence())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	client, hr := clientOf(t, r), polite(t, http.MethodGet, r.URL()+path).WithContext(ctx)
	go func() {
		_, err := do(client, hr)
		ended <- err
	}()
	if err := r.WaitFor(t.Context(), Match{Kind: Blob}, 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a silent registry answered: %v", err)
	}
	ends(t, r)
}

func TestHoldBody(t *testing.T) {
	gate := NewGate()
	r, path, want := faulty(t, Options{}, 0, Fault{HoldBody: gate, HoldAt: 10})
	res, err := clientOf(t, r).Do(polite(t, http.MethodGet, r.URL()+path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := gate.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if sent := r.BlobBytes(r.Requests(Match{})[0].Digest); sent != 10 {
		t.Errorf("%d bytes were sent before the gate", sent)
	}
	gate.Open()
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFaultHook(t *testing.T) {
	var seen []Request
	r := New(t, Options{Auth: Basic, Fault: func(q Request) Fault {
		seen = append(seen, q)
		if q.Kind == Manifest {
			return Status(http.StatusBadGateway)
		}
		return Fault{}
	}})
	r.AddUser("bot", "pw", "**")
	addManifest(r, "v1")
	get(t, r, "/v2/", basic("bot", "pw")...).want(t, 200)
	get(t, r, manifestPath("v1"), basic("bot", "pw")...).want(t, 502)
	if len(seen) != 2 || seen[1].User != "bot" || seen[1].Tag != "v1" || seen[1].ID != 3 {
		t.Errorf("the hook saw %+v", seen)
	}
	// An injection goes first, and a removed one is gone.
	in := r.Inject(Match{Kind: Manifest}, 0, Status(http.StatusTeapot))
	get(t, r, manifestPath("v1"), basic("bot", "pw")...).want(t, 418)
	in.Remove()
	get(t, r, manifestPath("v1"), basic("bot", "pw")...).want(t, 502)
	if in.Hits() != 1 || len(seen) != 3 {
		t.Errorf("%d hits, %d asked", in.Hits(), len(seen))
	}
}

func TestInjectionsTakeTurns(t *testing.T) {
	r := New(t, Options{})
	r.Inject(Match{Kind: Ping}, 1, Status(500))
	r.Inject(Match{Kind: Ping}, 2, Status(502))
	r.Inject(Match{Kind: Tags}, 0, Status(503))
	var got []string
	for range 4 {
		got = append(got, http.StatusText(get(t, r, "/v2/").status))
	}
	if s := strings.Join(got, ","); s != "Internal Server Error,Bad Gateway,Bad Gateway,OK" {
		t.Error(s)
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		through := make(chan error, 5)
		for range 3 {
			go func() { through <- g.enter(t.Context()) }()
		}
		if err := g.Wait(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		g.Pass(2)
		synctest.Wait()
		if len(through) != 2 {
			t.Errorf("%d are through, want 2", len(through))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Wait(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a fourth: %v", err)
		}
		if err := g.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("entering a closed gate: %v", err)
		}
		g.Open()
		synctest.Wait()
		if err := g.enter(t.Context()); err != nil || len(through) != 3 {
			t.Errorf("an open gate: %v, %d are through", err, len(through))
		}
	})
}
