package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/fleet/gate"
	"berth/internal/ocitest/engines"
	"berth/internal/secret"
)

func open(t *testing.T, s *engines.S3, change func(*Options)) *Bucket {
	t.Helper()
	o := Options{Endpoint: s.Endpoint, Name: s.Bucket, AccessKey: func(context.Context) (AccessKey, error) {
		return AccessKey{ID: s.AccessKey, Secret: secret.New(s.Secret)}, nil
	}}
	if change != nil {
		change(&o)
	}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestBucket_PutsAndGets(t *testing.T) {
	s := engines.StartS3(t)
	b, ctx := open(t, s, nil), t.Context()
	body := make([]byte, 1<<20+7)
	_, _ = rand.Read(body)
	const key = "v1/ab/abcd/0123/0"
	if err := b.Put(ctx, key, body); err != nil {
		t.Fatal(err)
	}
	got, err := b.Get(ctx, key, make([]byte, len(body)))
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if !bytes.Equal(s.Objects()[key], body) {
		t.Errorf("not in the bucket under its key")
	}
	if _, err := b.Get(ctx, key, make([]byte, len(body)-1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("one byte more than allowed: %v", err)
	}
	if _, err := b.Get(ctx, "v1/ab/absent", make([]byte, 1)); !errors.Is(err, ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	if err := b.Put(ctx, key, []byte("second")); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(ctx, key, make([]byte, 10)); string(got) != "second" || err != nil {
		t.Errorf("written again: %q, %v", got, err)
	}
	if err := b.Away(); err != nil {
		t.Errorf("away: %v", err)
	}
}

// A refused key is the bucket's trouble and not an absence, and shows neither its id
// nor its secret.
func TestBucket_SaysWhyItRefuses(t *testing.T) {
	s := engines.StartS3(t)
	for what, change := range map[string]func(*Options){
		"wrong secret": func(o *Options) {
			o.AccessKey = func(context.Context) (AccessKey, error) {
				return AccessKey{s.AccessKey, secret.New("canary-secret")}, nil
			}
		},
		"unknown key": func(o *Options) {
			o.AccessKey = func(context.Context) (AccessKey, error) {
				return AccessKey{"canary-id", secret.New("canary-secret")}, nil
			}
		},
		"no key": func(o *Options) {
			o.AccessKey = func(context.Context) (AccessKey, error) { return AccessKey{}, errors.New("no file") }
		},
		"another bucket": func(o *Options) { o.Name = "absent" },
	} {
		b := open(t, s, change)
		_, err := b.Get(t.Context(), "v1/x", make([]byte, 10))
		if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, gate.ErrAway) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 10)); !errors.Is(err, gate.ErrAway) {
			t.Errorf("%s, a second time: %v", what, err)
		}
		t.Log(what, err)
	}
}

// A bucket that died costs one reader, not the next, and is found when it is back.
func TestBucket_IsLeftAloneWhileAway(t *testing.T) {
	s := engines.StartS3(t)
	b, ctx := open(t, s, nil), t.Context()
	if err := b.Put(ctx, "v1/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, err := b.Get(ctx, "v1/x", make([]byte, 10)); err == nil || errors.Is(err, gate.ErrAway) {
		t.Fatalf("the first after its death: %v", err)
	}
	if _, err := b.Get(ctx, "v1/x", make([]byte, 10)); !errors.Is(err, gate.ErrAway) {
		t.Fatalf("the second: %v", err)
	}
	s.Start()
	for range time.Tick(10 * time.Millisecond) {
		got, err := b.Get(ctx, "v1/x", make([]byte, 10))
		if err == nil && string(got) == "x" {
			break
		}
		if !errors.Is(err, gate.ErrAway) {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestBucket_OfACallerWhoLeftSaysNothing(t *testing.T) {
	b := open(t, engines.StartS3(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Get(ctx, "v1/x", make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := b.Away(); err != nil {
		t.Errorf("a caller who left has sent the bucket away: %v", err)
	}
}

// answers are a stand-in for what no real service can be asked to do. They arrive in
// fake time.
type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func (a answers) bucket(t *testing.T) *Bucket {
	t.Helper()
	b, err := New(Options{
		Endpoint: &url.URL{Scheme: "https", Host: "s3.example.com"}, Name: "b", Transport: a,
		AccessKey: func(context.Context) (AccessKey, error) { return AccessKey{"id", secret.New("s")}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func answer(status int, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), ContentLength: -1}
}

func TestBucket_TriesTwiceAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			status, fails, want int
			ok                  bool
		}{
			{503, 1, 2, true}, {500, 2, 2, false}, {429, 1, 2, true}, {400, 1, 1, false}, {302, 1, 1, false}, {404, 1, 1, false}, {503, 4, 5, true},
		} {
			asked := 0
			b := answers(func(*http.Request) (*http.Response, error) {
				if asked++; asked <= c.fails {
					return answer(c.status, strings.NewReader("<Error><Code>X</Code></Error>")), nil
				}
				return answer(200, strings.NewReader("x")), nil
			}).bucket(t)
			_, err := b.Get(t.Context(), "v1/x", make([]byte, 1))
			if asked != c.want || (err == nil) != c.ok {
				t.Errorf("%d, %d times: asked %d times, %v", c.status, c.fails, asked, err)
			}
		}
	})
}

// drip gives a byte a second, for ever.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return copy(p, "x"), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

// A bucket that drips costs one reader one time limit, and a probe finds out no better
// as long as it drips.
func TestBucket_ThatDripsCostsOneReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		b := answers(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			return answer(200, drip{r.Context()}), nil
		}).bucket(t)
		begun := time.Now()
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1<<20)); !errors.Is(err, ErrSlow) || time.Since(begun) != b.patience || asked.Load() != 1 {
			t.Fatalf("asked %d times, after %v: %v", asked.Load(), time.Since(begun), err)
		}
		for range 600 {
			time.Sleep(time.Second)
			begun = time.Now()
			if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1<<20)); !errors.Is(err, gate.ErrAway) || time.Since(begun) != 0 {
				t.Fatalf("after %v: %v", time.Since(begun), err)
			}
		}
		if probes := asked.Load() - 1; probes < 10 || probes > 30 {
			t.Errorf("%d probes in ten minutes", probes)
		}
	})
}

// A bucket that answers at once and then drips is found out by what reading has to bring,
// and costs half of the patience, once. One that is only busy is none that is away.
func TestBucket_TryReadsAsMuchAsCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name        string
			get         func(*http.Request) *http.Response // of what was written
			put         int
			asked       int
			away, after bool // is it away; has that taken half of the patience
		}{
			{"good", func(*http.Request) *http.Response { return answer(200, strings.NewReader(strings.Repeat("x", least))) }, 200, 3, false, false},
			{"drips", func(r *http.Request) *http.Response { return answer(200, drip{r.Context()}) }, 200, 3, true, true},
			{"full", nil, 507, 2, false, false},
			{"busy", func(*http.Request) *http.Response { return answer(503, http.NoBody) }, 200, 3, false, false},
			{"broken", func(*http.Request) *http.Response { return answer(500, http.NoBody) }, 200, 3, true, false},
		} {
			asked, written := 0, false
			b := answers(func(r *http.Request) (*http.Response, error) {
				asked++
				switch {
				case r.Method == http.MethodPut:
					written = true
					return answer(c.put, http.NoBody), nil
				case !written:
					return answer(404, http.NoBody), nil
				}
				return c.get(r), nil
			}).bucket(t)
			begun := time.Now()
			err := b.Try(t.Context())
			if took := time.Since(begun); (err != nil) != c.away || asked != c.asked || (took == b.patience/2) != c.after || took > b.patience/2 {
				t.Errorf("%s: asked %d times, %v after %v", c.name, asked, err, took)
			}
			begun = time.Now()
			if err := b.Try(t.Context()); errors.Is(err, gate.ErrAway) != c.away || time.Since(begun) != 0 {
				t.Errorf("%s: the second time %v after %v", c.name, err, time.Since(begun))
			}
		}
	})
}

// flow gives so many bytes each second, for ever.
type flow struct {
	ctx    context.Context
	second int
}

func (f flow) Read(p []byte) (int, error) {
	n := min(len(p), f.second)
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(f.second)):
		return n, nil
	case <-f.ctx.Done():
		return 0, f.ctx.Err()
	}
}

// A bucket that a thousand nodes read from at once gives each of them little, and that is
// waited for, as long as it takes.
func TestBucket_ThatIsBusyIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for second, busy := range map[int]bool{100 << 10: true, least / 3: true, least / 5: false} {
			b := answers(func(r *http.Request) (*http.Response, error) {
				return answer(200, io.LimitReader(flow{r.Context(), second}, 8<<20)), nil
			}).bucket(t)
			begun := time.Now()
			got, err := b.Get(t.Context(), "v1/x", make([]byte, 8<<20))
			if busy && (err != nil || len(got) != 8<<20 || time.Since(begun) < time.Minute) {
				t.Errorf("%d bytes a second: %d bytes after %v, %v", second, len(got), time.Since(begun), err)
			}
			if !busy && (!errors.Is(err, ErrSlow) || time.Since(begun) > 2*b.patience) {
				t.Errorf("%d bytes a second: after %v, %v", second, time.Since(begun), err)
			}
		}
	})
}

// Who asks a bucket that has a limit, as all do, is served later, as long as it serves
// this node at all.
func TestBucket_ThatWantsFewerRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, free := 0, time.Now().Add(20*time.Second)
		b := answers(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "other") || time.Now().After(free) {
				return answer(200, strings.NewReader("x")), nil
			}
			asked++
			return answer(503, strings.NewReader("")), nil
		}).bucket(t)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-time.After(time.Second):
					_, _ = b.Get(t.Context(), "v1/other", make([]byte, 1))
				case <-stop:
					return
				}
			}
		}()
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1)); err != nil || asked > 30 {
			t.Errorf("asked %d times: %v", asked, err)
		}
		close(stop)
		free = free.Add(time.Hour)
		begun := time.Now()
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1)); err == nil || time.Since(begun) > 2*b.patience || b.Away() == nil {
			t.Errorf("after %v, %v", time.Since(begun), err)
		}
	})
}

// A bucket that says itself that it is asked for too much is well: who comes is served in
// the end, though nothing was given to this node meanwhile. One that says nothing else is
// given up after some time, and so is a 503 of whatever stands before it, at once.
func TestBucket_ThatSaysSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			status int
			code   string
			well   time.Duration // from then on
			least  time.Duration
			most   time.Duration
			ok     bool
		}{
			{503, "SlowDown", 20 * time.Second, 20 * time.Second, 23 * time.Second, true},
			{503, "SlowDownRead", 20 * time.Second, 20 * time.Second, 23 * time.Second, true},
			{429, "", 20 * time.Second, 20 * time.Second, 23 * time.Second, true},
			{503, "SlowDown", time.Hour, time.Minute, 63 * time.Second, false},
			{503, "ServiceUnavailable", 20 * time.Second, 0, 7 * time.Second, false},
			{503, "", 20 * time.Second, 0, 7 * time.Second, false},
			{500, "SlowDown", 20 * time.Second, 0, time.Second, false},
		} {
			asked, start := 0, time.Now()
			b := answers(func(*http.Request) (*http.Response, error) {
				if asked++; time.Since(start) >= c.well {
					return answer(200, strings.NewReader("x")), nil
				}
				return answer(c.status, strings.NewReader("<Error><Code>"+c.code+"</Code></Error>")), nil
			}).bucket(t)
			_, err := b.Get(t.Context(), "v1/x", make([]byte, 1))
			if took := time.Since(start); (err == nil) != c.ok || took < c.least || took > c.most || asked > 45 || (b.Away() == nil) != c.ok {
				t.Errorf("%d %s for %v: asked %d times, %v after %v, away: %v", c.status, c.code, c.well, asked, err, took, b.Away())
			}
			begun := time.Now()
			if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1)); (err == nil) != c.ok || time.Since(begun) > 0 {
				t.Errorf("%d %s: the second time %v after %v", c.status, c.code, err, time.Since(begun))
			}
		}
	})
}

// Whoever has run out of time is not whoever left: it is the bucket's fault.
func TestBucket_CallersPatienceCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := answers(func(r *http.Request) (*http.Response, error) { return answer(200, drip{r.Context()}), nil }).bucket(t)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := b.Get(ctx, "v1/x", make([]byte, 1<<20)); !errors.Is(err, context.DeadlineExceeded) || b.Away() == nil {
			t.Errorf("%v, away: %v", err, b.Away())
		}
	})
}

// A bucket that is full can still be read. Who asks whether it can be written finds out
// when it can again, though nobody writes.
func TestBucket_ThatIsFullCanBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var emptied atomic.Bool
		b := answers(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut && !emptied.Load() {
				return answer(507, strings.NewReader("")), nil
			}
			return answer(200, strings.NewReader("x")), nil
		}).bucket(t)
		if err := b.Writable(); err != nil {
			t.Errorf("before anything failed: %v", err)
		}
		if err := b.Put(t.Context(), "v1/x", []byte("x")); err == nil || b.Writable() == nil {
			t.Fatalf("%v, then %v", err, b.Writable())
		}
		if err := b.Put(t.Context(), "v1/x", []byte("x")); !errors.Is(err, gate.ErrAway) {
			t.Errorf("a second time: %v", err)
		}
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1)); err != nil {
			t.Errorf("reading: %v", err)
		}
		emptied.Store(true)
		for range 120 {
			time.Sleep(time.Second)
			_ = b.Writable() // it starts a probe when one is due
		}
		if err := b.Writable(); err != nil {
			t.Errorf("two minutes after it was emptied: %v", err)
		}
	})
}

// No answer can make the bucket send its signature to another host, and none is read
// beyond what was asked for.
func TestBucket_OfABadEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := map[string]int{}
		b := answers(func(r *http.Request) (*http.Response, error) {
			hosts[r.URL.Host]++
			resp := answer(307, strings.NewReader(""))
			resp.Header.Set("Location", "https://evil.example.com/")
			return resp, nil
		}).bucket(t)
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1)); err == nil || len(hosts) != 1 {
			t.Errorf("%v, asked %v", err, hosts)
		}
		read := new(counter)
		b = answers(func(*http.Request) (*http.Response, error) { return answer(200, read), nil }).bucket(t)
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1000)); !errors.Is(err, ErrTooLong) || *read > 64<<10 {
			t.Errorf("%v after %d bytes", err, *read)
		}
		read = new(counter)
		b = answers(func(*http.Request) (*http.Response, error) { return answer(400, read), nil }).bucket(t)
		if _, err := b.Get(t.Context(), "v1/x", make([]byte, 1000)); err == nil || *read > 64<<10 {
			t.Errorf("%v after %d bytes", err, *read)
		}
	})
}

// counter is endless.
type counter int

func (c *counter) Read(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestBucket_StylesAndRegions(t *testing.T) {
	for _, c := range []struct{ endpoint, region, wantURL, wantRegion string }{
		{"https://s3.eu-central-1.amazonaws.com", "", "https://s3.eu-central-1.amazonaws.com/b/v1/k", "eu-central-1"},
		{"https://b.s3.eu-central-1.amazonaws.com/", "", "https://b.s3.eu-central-1.amazonaws.com/v1/k", "eu-central-1"},
		{"https://s3.dualstack.eu-west-1.amazonaws.com", "", "https://s3.dualstack.eu-west-1.amazonaws.com/b/v1/k", "eu-west-1"},
		{"https://s3.cn-north-1.amazonaws.com.cn", "", "https://s3.cn-north-1.amazonaws.com.cn/b/v1/k", "cn-north-1"},
		{"https://s3.amazonaws.com", "", "https://s3.amazonaws.com/b/v1/k", "us-east-1"},
		{"https://fra1.digitaloceanspaces.com", "", "https://fra1.digitaloceanspaces.com/b/v1/k", "us-east-1"},
		{"https://x.r2.cloudflarestorage.com", "auto", "https://x.r2.cloudflarestorage.com/b/v1/k", "auto"},
		{"http://ceph.internal:7480/s3", "", "http://ceph.internal:7480/s3/b/v1/k", "us-east-1"},
	} {
		u, err := url.Parse(c.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		var asked, signed string
		b, err := New(Options{
			Endpoint: u, Name: "b", Region: c.region,
			AccessKey: func(context.Context) (AccessKey, error) { return AccessKey{"id", secret.New("s")}, nil },
			Transport: answers(func(r *http.Request) (*http.Response, error) {
				asked, signed = r.URL.String(), r.Header.Get("Authorization")
				return answer(200, strings.NewReader("")), nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Put(t.Context(), "v1/k", nil); err != nil || asked != c.wantURL || !strings.Contains(signed, "/"+c.wantRegion+"/s3/") {
			t.Errorf("%s: %v, %s, %s", c.endpoint, err, asked, signed)
		}
	}
	for _, bad := range []Options{{}, {Endpoint: &url.URL{Scheme: "ftp", Host: "x"}, Name: "b"}, {Endpoint: &url.URL{Scheme: "https", Host: "x"}}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
