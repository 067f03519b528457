package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/oci"
)

// brittle is a registry whose connections can die without a word, in one bubble.
type brittle struct {
	t        *testing.T
	up       *ocitest.Registry
	registry *Registry
	src      oci.Source
	lines    ocitest.Freezer
	image    ocitest.Pushed
}

// flavours are the ways to speak to a registry.
func flavours() map[string]ocitest.Options {
	return map[string]ocitest.Options{
		"plain":      {},
		"TLS":        {TLS: true},
		"TLS, HTTP2": {TLS: true, HTTP2: true},
	}
}

// onBrittle runs f for each flavour. more may change what kind of registry it is.
func onBrittle(t *testing.T, more func(*ocitest.Options), f func(*brittle)) {
	t.Helper()
	for name, o := range flavours() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := ocitest.NewMemoryNet()
				o.Net = memory
				more(&o)
				b := &brittle{t: t, up: ocitest.New(t, o)}
				b.registry = newRegistry(t, Options{
					Origin: b.up.Origin(), CAs: b.up.CertPool(), Hosts: &limit.Hosts{Connections: 24}, // one organisation gets 18
					TokenEndpoints: []string{b.up.TokenURL()},
				})
				b.registry.conns.dial = b.lines.Dial(memory.DialContext)
				b.src = b.registry.As(Identity{})
				b.image = b.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{20_000, 6 << 20}})
				f(b)
			})
		})
	}
}

// fill leaves sixteen connections idle, in both lanes where that
// is so: with HTTP/2 it is one in the first.
func (b *brittle) fill() {
	b.t.Helper()
	gate := ocitest.NewGate()
	held := b.up.Inject(ocitest.Match{Where: func(r ocitest.Request) bool { return r.Kind == ocitest.Manifest || r.Kind == ocitest.Blob }}, 32, ocitest.Fault{Hold: gate})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() { b.stat() })
		all.Go(func() { b.blob(b.image.Platforms[0].Layers[0]) })
	}
	if err := gate.Wait(b.t.Context(), 32); err != nil {
		b.t.Fatal(err)
	}
	gate.Open()
	all.Wait()
	held.Remove()
	synctest.Wait()
}

func (b *brittle) object(kind oci.Kind, d oci.Digest) oci.Object {
	return oci.Object{Repo: b.image.Repo, Kind: kind, Digest: d}
}

func (b *brittle) stat() {
	if _, err := b.src.Stat(b.t.Context(), b.object(oci.Manifest, b.image.Digest)); err != nil {
		b.t.Errorf("HEAD of a manifest: %v", err)
	}
}

func (b *brittle) blob(d oci.Digest) {
	c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, d), oci.Range{})
	if err != nil {
		b.t.Errorf("a blob: %v", err)
		return
	}
	defer c.Body.Close()
	if text, err := io.ReadAll(c.Body); err != nil || oci.DigestOf(text) != d {
		b.t.Errorf("%d bytes of a blob: %v", len(text), err)
	}
}

func (b *brittle) manifest() {
	c, err := b.src.Open(b.t.Context(), b.object(oci.Manifest, b.image.Platforms[0].Manifest), oci.Range{})
	if err != nil {
		b.t.Errorf("a manifest: %v", err)
		return
	}
	c.Close()
}

// freeze wants at least some connections, and makes them silent.
func (b *brittle) freeze(least int) {
	b.t.Helper()
	if n := b.lines.Freeze(); n < least {
		b.t.Fatalf("only %d connections were open", n)
	}
	b.up.Forget()
}

// unharmed wants the breakers to have noticed nothing, and no dead connection to
// be left.
func (b *brittle) unharmed() {
	b.t.Helper()
	for what, k := range map[string]*breaker{"registry": b.registry.origin, "token host": b.registry.tokens} {
		if k.unreached != 0 || len(k.faults) > 0 {
			b.t.Errorf("the breaker of the %s weighs %d and %v", what, k.unreached, k.faults)
		}
	}
	if v := testutil.ToFloat64(b.registry.metrics.open.WithLabelValues("registry.test")); v != 0 {
		b.t.Errorf("the gauge says %v", v)
	}
	time.Sleep(2 * headerTimeout) // fake time
	if _, frozen := b.lines.Open(); frozen != 0 {
		b.t.Errorf("%d dead connections are kept", frozen)
	}
}

func (b *brittle) within(limit time.Duration, f func()) {
	b.t.Helper()
	begin := time.Now()
	f()
	if took := time.Since(begin); took > limit {
		b.t.Errorf("it took %v", took)
	}
}

// pullLimit and countedLimit are how long a request may take after its connection died.
const (
	pullLimit    = 2 * time.Second
	countedLimit = 3 * time.Second
)

// All idle connections are dead. Whatever comes next goes over a new one.
func TestDeadConnection_NextRequest(t *testing.T) {
	for what, c := range map[string]struct {
		ask   func(*brittle)
		limit time.Duration
		match ocitest.Match
		want  int
	}{
		"HEAD of a manifest": {(*brittle).stat, pullLimit, ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead}, 1},
		"GET of a manifest":  {(*brittle).manifest, countedLimit, ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 1},
		"a blob":             {func(b *brittle) { b.blob(b.image.Platforms[0].Layers[1]) }, pullLimit, ocitest.Match{Kind: ocitest.Blob}, 1},
		"sixteen blobs": {func(b *brittle) {
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() { b.blob(b.image.Platforms[0].Layers[0]) })
			}
			all.Wait()
		}, pullLimit, ocitest.Match{Kind: ocitest.Blob}, 16},
		"eight manifests": {func(b *brittle) {
			var all sync.WaitGroup
			for range 8 {
				all.Go(b.manifest)
			}
			all.Wait()
		}, countedLimit, ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 8},
	} {
		t.Run(what, func(t *testing.T) {
			onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
				b.fill()
				b.freeze(17)
				b.within(c.limit, func() { c.ask(b) })
				if n := b.up.Count(c.match); n != c.want {
					b.t.Errorf("the registry saw %d, want %d", n, c.want)
				}
				b.unharmed()
			})
		})
	}
}

// A pull finds out once, and not again for the token host, each manifest, each blob
// and the redirect target.
func TestDeadConnection_WholePull(t *testing.T) {
	onBrittle(t, func(o *ocitest.Options) { o.Auth, o.TokenServer, o.CDN = ocitest.Bearer, true, ocitest.CDNSame }, func(b *brittle) {
		pulled := b.up.AddImage("acme/other", "1", ocitest.Image{Index: true, Layers: []int64{20_000, 6 << 20}})
		b.fill()
		b.freeze(17)
		b.image = pulled // whose repository needs a token of its own
		b.within(pullLimit, func() {
			if _, err := b.src.Resolve(b.t.Context(), pulled.Repo, "1"); err != nil {
				b.t.Error(err)
			}
			b.manifest()
			for _, d := range pulled.Blobs(0) {
				b.blob(d)
			}
		})
		if n := b.up.ManifestGETs(); n != 1 {
			b.t.Errorf("%d manifests were fetched", n)
		}
		b.unharmed()
	})
}

// A registry that is slow with a counted GET, over a connection that lives, is not
// asked twice: the HEADs that look are answered.
func TestDeadConnection_SlowCountedGETIsSentOnce(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		b.stat()
		gate := ocitest.NewGate()
		b.up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 1, ocitest.Fault{Hold: gate})
		time.AfterFunc(7*time.Second, gate.Open)
		b.manifest()
		if n := b.up.ManifestGETs(); n != 1 {
			b.t.Errorf("%d GETs", n)
		}
		// The first, and those that looked: after a second, two and four.
		if n := b.up.ManifestHEADs(); n < 2 || n > 4 {
			b.t.Errorf("%d HEADs", n)
		}
	})
}

// A counted GET over a connection that lives when it is looked at, and dies after that,
// is sent again all the same.
func TestDeadConnection_DiesUnderASlowCountedGET(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		b.stat()
		gate := ocitest.NewGate()
		b.up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 1, ocitest.Fault{Hold: gate})
		time.AfterFunc(1500*time.Millisecond, func() { b.lines.Freeze() })
		b.within(6*time.Second, b.manifest)
		gate.Open()
		if n := b.up.ManifestGETs(); n != 2 {
			b.t.Errorf("%d GETs", n)
		}
	})
}

// A connection dies in the middle of a blob, whether it was new or not, at the
// registry or at a redirect target. The reader is told soon, and takes up the rest.
func TestDeadConnection_MiddleOfABlob(t *testing.T) {
	for name, cdn := range map[string]ocitest.CDN{"registry": ocitest.NoCDN, "redirect target": ocitest.CDNSame} {
		t.Run(name, func(t *testing.T) {
			onBrittle(t, func(o *ocitest.Options) { o.CDN = cdn }, func(b *brittle) {
				layer := b.image.Platforms[0].Layers[1]
				b.up.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: layer, Where: func(r ocitest.Request) bool { return r.Range == "" }}, 0, ocitest.Stall(5<<20))
				c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, layer), oci.Range{})
				if err != nil {
					b.t.Fatal(err)
				}
				begun := make([]byte, 5<<20)
				if _, err := io.ReadFull(c.Body, begun); err != nil {
					b.t.Fatal(err)
				}
				b.freeze(1)
				b.within(pullLimit, func() {
					if _, err := c.Body.Read(make([]byte, 1)); oci.ClassOf(err) != oci.Timeout {
						b.t.Errorf("%v", err)
					}
					c.Body.Close()
					open := b.src.Open
					if c.Again != nil {
						open = func(ctx context.Context, _ oci.Object, r oci.Range) (*oci.Content, error) { return c.Again(ctx, r) }
					}
					rest, err := open(b.t.Context(), b.object(oci.Blob, layer), oci.Range{Start: 5 << 20})
					if err != nil {
						b.t.Fatal(err)
					}
					if got := slices.Concat(begun, readAll(b.t, rest)); oci.DigestOf(got) != layer {
						b.t.Errorf("%d bytes, and others", len(got))
					}
				})
				b.unharmed()
			})
		})
	}
}

// A registry that drips, or that stops for a while in the middle, and does so on
// every connection, is waited for as ever.
func TestDeadConnection_DrippingIsNotDead(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		layer := b.image.Platforms[0].Layers[0]
		b.up.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Slow(10)) // bytes a second, and sent in larger pieces
		read := func(r oci.Range) (int, error) {
			c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, layer), r)
			if err != nil {
				return 0, err
			}
			defer c.Body.Close()
			text, err := io.ReadAll(c.Body)
			return len(text), err
		}
		if n, err := read(oci.Range{Length: 300}); err != nil || n != 300 {
			b.t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// On a host that has just been given up, and stops again, nothing is given up.
func TestDeadConnection_HostThatStopsAgain(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		layer := b.image.Platforms[0].Layers[0]
		// Every answer stops after 10,000 bytes and goes on after six seconds; the
		// byte that is asked for by itself comes at once.
		b.up.Inject(ocitest.Match{Kind: ocitest.Blob, Where: func(r ocitest.Request) bool { return !strings.HasPrefix(r.Range, "bytes=10000-") }}, 1, ocitest.Fault{HoldBody: pausing(6 * time.Second), HoldAt: 10_000})
		b.up.Inject(ocitest.Match{Kind: ocitest.Blob, Where: func(r ocitest.Request) bool { return r.Range == "" }}, 1, ocitest.Fault{HoldBody: pausing(7 * time.Second), HoldAt: 10_000})
		read := func() error {
			c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, layer), oci.Range{})
			if err != nil {
				return err
			}
			defer c.Body.Close()
			_, err = io.Copy(io.Discard, c.Body)
			return err
		}
		if err := read(); oci.ClassOf(err) != oci.Timeout {
			b.t.Errorf("the first time: %v", err)
		}
		if err := read(); err != nil {
			b.t.Errorf("the second time: %v", err)
		}
	})
}

// pausing is a gate that opens after a while.
func pausing(d time.Duration) *ocitest.Gate {
	g := ocitest.NewGate()
	time.AfterFunc(d, g.Open)
	return g
}

// A host that usually takes long has three times as long on a connection that was
// open before. The first time it is not known to take long.
func TestDeadConnection_SlowHostIsNotDead(t *testing.T) {
	delay := 1500 * time.Millisecond
	slow := func(r ocitest.Request) ocitest.Fault {
		if r.Kind != ocitest.Manifest {
			return ocitest.Fault{}
		}
		return ocitest.Fault{Hold: pausing(delay)}
	}
	onBrittle(t, func(o *ocitest.Options) { o.Fault = slow }, func(b *brittle) {
		delay = 1500 * time.Millisecond
		for _, want := range []int{2, 1} {
			b.up.Forget()
			b.stat()
			if n := b.up.ManifestHEADs(); n != want {
				b.t.Errorf("%d HEADs for one question that took %v", n, delay)
			}
			delay = 4 * time.Second
		}
		b.unharmed()
	})
}

// A registry that takes requests and says nothing, over new connections as well, is
// found out by those: each call costs it the two tries that it always cost, and one
// for the connection that was open.
func TestDeadConnection_SilentRegistryStillOpensTheBreaker(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		b.fill()
		b.up.Forget()
		b.up.Inject(ocitest.Match{}, 0, ocitest.Silence())
		calls := 0
		for ; !b.registry.origin.open() && calls < 10; calls++ {
			if _, err := b.src.Stat(b.t.Context(), b.object(oci.Manifest, b.image.Digest)); oci.ClassOf(err) != oci.Timeout {
				b.t.Fatalf("%v", err)
			}
		}
		if calls != 2 {
			b.t.Errorf("it opened after %d calls", calls)
		}
		if n := len(b.up.Requests(ocitest.Match{})); n > 2*calls+1 {
			b.t.Errorf("%d requests in %d calls", n, calls)
		}
	})
}

// The proxy's connections die as any other.
func TestDeadConnection_ThroughAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := ocitest.NewMemoryNet()
		up := ocitest.New(t, ocitest.Options{Net: memory})
		image := up.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{1000}})
		r := newRegistry(t, Options{Origin: up.Origin(), Proxy: mustURL(t, "http://proxy.test:3128"), Before: withoutAuth})
		var lines ocitest.Freezer
		dials := 0
		r.conns.dial = lines.Dial(func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			if dials++; addr != "proxy.test:3128" {
				return nil, fmt.Errorf("%s was dialled", addr)
			}
			return memory.DialContext(ctx, network, up.Host()) // it takes absolute URLs too
		})
		src := r.As(Identity{})
		for _, want := range []int{1, 2} {
			begin := time.Now()
			if _, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: image.Digest}); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > pullLimit || dials != want {
				t.Errorf("%d connections, %v", dials, took)
			}
			lines.Freeze()
		}
	})
}
