package ocitest

import (
	"errors"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"

	"berth/oci"
)

// Whatever a handler is doing, Close ends it and waits for it.
func TestCloseEndsHandlers(t *testing.T) {
	for name, f := range map[string]Fault{
		"held":         Silence(),
		"stalled":      Stall(1000),
		"slow":         Slow(10),
		"endless":      {Endless: true},
		"not read":     {},
		"slow and cut": {Rate: 10, Cut: CutReset, CutAt: 1 << 20},
	} {
		for scheme, o := range map[string]Options{"http": {}, "h2": {TLS: true, HTTP2: true}} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				r, err := Start(o)
				if err != nil {
					t.Fatal(err)
				}
				d := oci.DigestOf(nil) // a lie, but nobody reads that far
				r.SetBlob("acme/app", d, Noise(1, 1<<40), 1<<40)
				r.Inject(Match{}, 0, f)
				client := clientOf(t, r)
				ended, over := make(chan error, 1), make(chan struct{})
				hr := polite(t, http.MethodGet, r.URL()+blobPath(d))
				go func() {
					res, err := client.Do(hr)
					if err == nil {
						<-over
						_ = res.Body.Close()
					}
					ended <- err
				}()
				if err := r.WaitInFlight(t.Context(), Match{}, 1); err != nil {
					t.Fatal(err)
				}
				r.Close() // while the client neither reads nor leaves
				r.Close()
				close(over)
				<-ended
				if q := r.Requests(Match{}); len(q) != 1 || !q[0].Done {
					t.Errorf("after Close: %v", q)
				}
			})
		}
	}
}

// Over HTTP/2 a connection may end before its handlers.
func TestCloseWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := make(chan struct{})
		r := New(t, Options{TLS: true, HTTP2: true, Net: NewMemoryNet(), Fault: func(Request) Fault {
			<-busy
			return Fault{}
		}})
		client, hr := clientOf(t, r), polite(t, http.MethodGet, r.URL()+"/v2/")
		go func() { _, _ = do(client, hr) }() // it is cut off
		if err := r.WaitFor(t.Context(), Match{Kind: Ping}, 1); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() {
			r.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close did not wait for a handler")
		default:
		}
		close(busy)
		<-closed
	})
}

func TestSever(t *testing.T) {
	r := New(t, Options{})
	d := r.AddNoise("acme/app", 1, 1000)
	in := r.Inject(Match{}, 1, Stall(10))
	ended := make(chan reply, 1)
	client, hr := clientOf(t, r), polite(t, http.MethodGet, r.URL()+blobPath(d))
	go func() {
		got, err := do(client, hr)
		if err != nil {
			got.err = err
		}
		ended <- got
	}()
	if err := r.WaitSent(t.Context(), Match{}, 10); err != nil {
		t.Fatal(err)
	}
	r.Sever()
	if got := <-ended; got.err == nil {
		t.Errorf("a severed connection gave all %d bytes", len(got.body))
	}
	if in.Hits() != 1 {
		t.Error("there was no fault")
	}
	get(t, r, blobPath(d)).want(t, 200) // it goes on listening
}

func TestClosedPort(t *testing.T) {
	r := New(t, Options{})
	r.Close()
	if _, err := do(clientOf(t, r), polite(t, http.MethodGet, r.URL()+"/v2/")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed registry: %v", err)
	}
}

func TestStartRefusesPlainHTTP2(t *testing.T) {
	if r, err := Start(Options{HTTP2: true}); err == nil {
		r.Close()
		t.Error("HTTP/2 without TLS was started")
	}
}

func TestAddresses(t *testing.T) {
	r := New(t, Options{TLS: true, CDN: CDNPlain, TokenServer: true})
	if o := r.Origin(); o.URL() != r.URL() || o.Host != r.Host() || o.Owner != "" {
		t.Errorf("%+v", o)
	}
	if len(r.CertPEM()) == 0 || r.CDNURL() == "" || hostOf(r.TokenURL()) == r.Host() {
		t.Errorf("%d %s %s", len(r.CertPEM()), r.CDNURL(), r.TokenURL())
	}
	p := New(t, Options{})
	if len(p.CertPEM()) != 0 || p.CDNURL() != "" || p.TokenURL() != p.URL()+tokenPath || p.Origin().Scheme != "http" {
		t.Errorf("%d %s %s", len(p.CertPEM()), p.CDNURL(), p.TokenURL())
	}
}
