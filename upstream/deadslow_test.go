package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// A ping of HTTP/2, or the kernel, finds out that a connection is dead while requests
// wait on it, so that all of them fail at once. None of them is the registry's fault.
func TestDeadConnection_FoundByAPing(t *testing.T) {
	onBrittle(t, func(o *ocitest.Options) { o.TLS, o.HTTP2 = true, true }, func(b *brittle) {
		b.fill()
		b.freeze(17)
		time.Sleep(pingAfter + pingTimeout - 500*time.Millisecond)
		b.within(pullLimit, func() {
			var all sync.WaitGroup
			for range 8 {
				all.Go(b.manifest)
			}
			all.Wait()
		})
		if n := b.up.ManifestGETs(); n != 8 {
			b.t.Errorf("%d GETs", n)
		}
		b.unharmed()
	})
}

// The connections are given up while a counted GET is on one of them. The HEAD that is
// to tell then goes over a new one and is answered; that a neighbour was dead tells.
func TestDeadConnection_NeighbourOfACountedGET(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		b.fill()
		b.freeze(17)
		var first sync.WaitGroup
		first.Go(func() { b.blob(b.image.Platforms[0].Layers[0]) })
		time.Sleep(leastQuiet / 2)
		b.within(countedLimit, b.manifest)
		first.Wait()
		if n := b.up.ManifestGETs(); n != 1 {
			b.t.Errorf("%d GETs", n)
		}
		b.unharmed()
	})
}

// reachable fails each new connection with err until up is set.
type reachable struct {
	mu   sync.Mutex
	down error
}

func (r *reachable) set(down error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *reachable) dial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		r.mu.Lock()
		down := r.down
		r.mu.Unlock()
		if down != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Err: down}
		}
		return dial(ctx, network, addr)
	}
}

// After a suspend the network is back some seconds later. Until then no new connection
// tells whether the old ones are dead, so it is asked for again.
func TestDeadConnection_NetworkIsBackLater(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		var net reachable
		b.registry.conns.dial = net.dial(b.registry.conns.dial)
		layer := b.image.Platforms[0].Layers[1]
		b.up.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: layer, Where: func(r ocitest.Request) bool { return r.Range == "" }}, 0, ocitest.Stall(5<<20))
		c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, layer), oci.Range{})
		if err != nil {
			b.t.Fatal(err)
		}
		defer c.Body.Close()
		if _, err := io.CopyN(io.Discard, c.Body, 5<<20); err != nil {
			b.t.Fatal(err)
		}
		b.freeze(1)
		net.set(syscall.ENETUNREACH)
		time.AfterFunc(4*time.Second, func() { net.set(nil) })
		b.within(stallLimit/3, func() {
			if _, err := c.Body.Read(make([]byte, 1)); oci.ClassOf(err) != oci.Timeout {
				b.t.Errorf("%v", err)
			}
		})
	})
}

// A host that was quick, and has become slow, is cut off once: the connection that is
// made for it shows that it is slow.
func TestDeadConnection_SlowHostIsCutOffOnce(t *testing.T) {
	var mu sync.Mutex
	delay := 50 * time.Millisecond
	set := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		delay = d
	}
	slow := func(r ocitest.Request) ocitest.Fault {
		if r.Kind != ocitest.Manifest {
			return ocitest.Fault{}
		}
		mu.Lock()
		defer mu.Unlock()
		return ocitest.Fault{Hold: pausing(delay)}
	}
	onBrittle(t, func(o *ocitest.Options) { o.Fault = slow }, func(b *brittle) {
		set(50 * time.Millisecond)
		for range 20 {
			b.stat()
		}
		set(5 * time.Second)
		for i, want := range []int{2, 1, 1, 1} {
			b.up.Forget()
			b.stat()
			if n := b.up.ManifestHEADs(); n != want {
				b.t.Errorf("question %d: %d HEADs, want %d", i, n, want)
			}
		}
		b.unharmed()
	})
}

// A token host that looks everybody up in a slow directory is waited for, on the
// second try at the latest; the next time on the first.
func TestDeadConnection_SlowTokenHost(t *testing.T) {
	slow := func(r ocitest.Request) ocitest.Fault {
		if r.Kind != ocitest.Token {
			return ocitest.Fault{}
		}
		return ocitest.Fault{Hold: pausing(5 * time.Second)}
	}
	onBrittle(t, func(o *ocitest.Options) { o.Auth, o.TokenServer, o.Fault = ocitest.Bearer, true, slow }, func(b *brittle) {
		for i, want := range []int{2, 1, 1} {
			b.image = b.up.AddImage("acme/app-"+string(rune('a'+i)), "1", ocitest.Image{Index: true, Layers: []int64{1000}})
			b.up.Forget()
			b.stat()
			if n := b.up.TokenRequests(); n != want {
				b.t.Errorf("repository %d: %d requests for a token, want %d", i, n, want)
			}
		}
	})
}

// Only a connection that was open before, and gave no byte, may fail without a word
// about the registry.
func TestDeadConnection_NewOneThatBreaksCounts(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		b.up.Inject(ocitest.Match{Kind: ocitest.Manifest}, 0, ocitest.Drop())
		if _, err := b.src.Stat(b.t.Context(), b.object(oci.Manifest, b.image.Digest)); err == nil || errors.Is(err, errLost) {
			b.t.Errorf("%v", err)
		}
		if len(b.registry.origin.faults) == 0 {
			b.t.Error("the breaker has noticed nothing")
		}
	})
}

// Two blobs are under way when their connections die, for the second time within a
// minute. The one that has brought little is given up after its neighbour.
func TestDeadConnection_SmallBesideLarge(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		small, large := b.image.Platforms[0].Layers[0], b.image.Platforms[0].Layers[1]
		whole := func(d oci.Digest) ocitest.Match {
			return ocitest.Match{Kind: ocitest.Blob, Digest: d, Where: func(r ocitest.Request) bool { return r.Range == "" }}
		}
		for range 2 {
			b.up.Inject(whole(small), 0, ocitest.Stall(10_000))
			b.up.Inject(whole(large), 0, ocitest.Stall(5<<20))
			var all sync.WaitGroup
			begun := make(chan struct{}, 2)
			for d, n := range map[oci.Digest]int64{small: 10_000, large: 5 << 20} {
				all.Go(func() {
					c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, d), oci.Range{})
					if err != nil {
						b.t.Error(err)
						begun <- struct{}{}
						return
					}
					defer c.Body.Close()
					if _, err := io.CopyN(io.Discard, c.Body, n); err != nil {
						b.t.Error(err)
					}
					begun <- struct{}{}
					if _, err := c.Body.Read(make([]byte, 1)); oci.ClassOf(err) != oci.Timeout {
						b.t.Errorf("%v", err)
					}
				})
			}
			<-begun
			<-begun
			b.freeze(1)
			b.within(5*time.Second, all.Wait)
			time.Sleep(10 * time.Second)
		}
	})
}

// A connection that has just been made dies with those that were open before, and had no
// time to answer. Its request is not left to wait as long as at a host that is slow.
func TestDeadConnection_JustMade(t *testing.T) {
	onBrittle(t, func(*ocitest.Options) {}, func(b *brittle) {
		small, large := b.image.Platforms[0].Layers[0], b.image.Platforms[0].Layers[1]
		whole := func(r ocitest.Request) bool { return r.Range == "" }
		b.up.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: large, Where: whole}, 0, ocitest.Stall(5<<20))
		c, err := b.src.Open(b.t.Context(), b.object(oci.Blob, large), oci.Range{})
		if err != nil {
			b.t.Fatal(err)
		}
		defer c.Body.Close()
		if _, err := io.CopyN(io.Discard, c.Body, 5<<20); err != nil {
			b.t.Fatal(err)
		}
		gate := ocitest.NewGate()
		b.up.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: small}, 1, ocitest.Fault{Hold: gate})
		var pull sync.WaitGroup
		pull.Go(func() { b.blob(small) })
		if err := gate.Wait(b.t.Context(), 1); err != nil {
			b.t.Fatal(err)
		}
		b.freeze(2)
		gate.Open()
		b.within(4*time.Second, func() {
			if _, err := c.Body.Read(make([]byte, 1)); oci.ClassOf(err) != oci.Timeout {
				b.t.Errorf("%v", err)
			}
			pull.Wait()
		})
		b.unharmed()
	})
}
