package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// oneTimeout is how long berth waits for a header on a new connection. A pull that
// takes that much longer than another one has waited out a connection that was dead.
const oneTimeout = 8 * time.Second

// deadName is the registry behind a relay whose connections can become silent.
const deadName = "registry.test"

// relayed is a built berth before such a registry, with a token host and a CDN.
type relayed struct {
	*home

	up *ocitest.Registry
	n  *running
	c  *client

	filled int // images, to fill the pool
	// usual is how long a cold pull takes here and now while all connections live.
	usual time.Duration
}

// onRelay runs f for each way to speak to a registry.
func onRelay(t *testing.T, f func(*testing.T, *relayed)) {
	t.Helper()
	for name, o := range map[string]ocitest.Options{
		"plain":            {},
		"TLS with HTTP1.1": {TLS: true},
		"TLS with HTTP2":   {TLS: true, HTTP2: true},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: they look at the clock
			o.Relay, o.Auth, o.TokenServer, o.CDN = true, ocitest.Bearer, true, ocitest.CDNSame
			r := &relayed{home: newHome(t), up: ocitest.New(t, o)}
			r.registry(deadName, r.up, fmt.Sprintf("token_endpoints: [%q]", r.up.TokenURL()), "allow_private: [127.0.0.0/8]")
			r.n = r.build()
			r.c = r.nobody(r.n)
			f(t, r)
		})
	}
}

// pooled is how many connections one caller can have to a registry at once: of the
// sixteen that a registry gets, a quarter is for others.
const pooled = 12

// fill leaves a full pool of idle connections to each of the three hosts. With HTTP/2
// all but blobs shares one. Where this machine is so slow that berth gives connections
// up meanwhile, that is done again.
func (r *relayed) fill() {
	r.t.Helper()
	for range 10 {
		r.fillOnce()
		// Each answer was held until sixteen had come. That is forgotten, or berth would
		// take hosts for slow that are not.
		for left := range 8 {
			r.filled++
			layers := []int64{20_000}
			if left == 7 { // the last is as large as what is measured
				layers = append(layers, 6<<20)
			}
			control := r.up.AddImage("acme/usual", fmt.Sprint(r.filled), ocitest.Image{Index: true, Layers: layers, Seed: uint64(r.filled)})
			begin := time.Now()
			r.c.mustPull(deadName+"/acme/usual", control, "")
			r.usual = time.Since(begin)
		}
		if r.up.Open(ocitest.RegistryServer) >= pooled && r.up.Open(ocitest.CDNServer) >= pooled && r.up.Open(ocitest.TokenServer) > 0 {
			return
		}
	}
	r.t.Fatal("the pool is never full")
}

// fillOnce pulls sixteen images at once, and holds each step until all of them have
// come to it.
func (r *relayed) fillOnce() {
	r.t.Helper()
	const all = pooled
	steps := []ocitest.Match{
		{Kind: ocitest.Token},
		{Kind: ocitest.Manifest, Method: http.MethodHead, Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }},
		{Kind: ocitest.Blob, Server: ocitest.RegistryServer},
		{Kind: ocitest.Blob, Server: ocitest.CDNServer},
	}
	gates := make([]*ocitest.Gate, len(steps))
	for i, m := range steps {
		gates[i] = ocitest.NewGate()
		r.up.Inject(m, all, ocitest.Fault{Hold: gates[i]})
	}
	var pulls sync.WaitGroup
	for range all {
		r.filled++
		repo := fmt.Sprint("acme/filling-", r.filled)
		image := r.up.AddImage(repo, "1", ocitest.Image{Layers: []int64{20_000}, Seed: uint64(r.filled)})
		pulls.Go(func() {
			if got, err := r.c.pull(deadName+"/"+repo, "1", ""); err != nil || got.digest != image.Digest {
				r.t.Errorf("%s: %v", repo, err)
			}
		})
	}
	for i, g := range gates {
		if err := g.Wait(soon(r.t), all); err != nil {
			r.t.Fatalf("%+v: %v", steps[i], err)
		}
		g.Open()
	}
	pulls.Wait()
}

// freeze makes all that is open to these servers silent, and counts from then on.
func (r *relayed) freeze(least int, servers ...ocitest.Server) {
	r.t.Helper()
	if n := r.up.Freeze(servers...); n < least {
		r.t.Fatalf("only %d connections were open", n)
	}
	r.up.Forget()
}

func (r *relayed) next() ocitest.Pushed {
	return r.up.AddImage("acme/next", "1", ocitest.Image{Index: true, Layers: []int64{20_000, 6 << 20}, Seed: 77})
}

// soonDone wants f to wait out no dead connection, and the breaker never to open.
func (r *relayed) soonDone(f func()) {
	r.t.Helper()
	begin := time.Now()
	f()
	took := time.Since(begin)
	r.t.Logf("it took %v, and usually %v", took, r.usual)
	if took >= oneTimeout+r.usual {
		r.t.Error("it has waited for a dead connection")
	}
	if open := r.n.sample(fmt.Sprintf("berth_breaker_open{registry=%q}", deadName)); open != 0 {
		r.t.Errorf("the breaker: %v", open)
	}
	if strings.Contains(r.n.log.String(), "in trouble") {
		r.t.Error("the breaker was open")
	}
}

func (r *relayed) counted(want int) {
	r.t.Helper()
	if n := r.up.ManifestGETs(); n != want {
		r.t.Errorf("%d manifests were asked for by GET, want %d", n, want)
	}
}

// Sixteen connections to each host were forgotten on the way. The next cold pull
// pays for that once.
func TestDeadConnection_ColdPull(t *testing.T) { // beside no other: it compares how long pulls take
	for name, servers := range map[string][]ocitest.Server{
		"all hosts":       nil,
		"registry":        {ocitest.RegistryServer},
		"token host":      {ocitest.TokenServer},
		"redirect target": {ocitest.CDNServer},
	} {
		t.Run(name, func(t *testing.T) {
			onRelay(t, func(_ *testing.T, r *relayed) {
				r.fill()
				least := pooled
				if name == "token host" {
					least = 1 // with HTTP/2 there is no more
				}
				r.freeze(least, servers...)
				image := r.next()
				r.soonDone(func() { r.c.mustPull(deadName+"/acme/next", image, "") })
				r.counted(2) // the index and the manifest
			})
		})
	}
}

// They die while the registry has a GET that it counts. It is sent again once.
func TestDeadConnection_CountedGETUnderWay(t *testing.T) { // beside no other: it compares how long pulls take
	onRelay(t, func(t *testing.T, r *relayed) {
		r.fill()
		image := r.next()
		get := ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet, Repo: "acme/next"}
		r.up.Inject(get, 1, ocitest.Silence())
		r.up.Forget()
		var pull sync.WaitGroup
		pull.Go(func() { r.c.mustPull(deadName+"/acme/next", image, "") })
		if err := r.up.WaitInFlight(soon(t), get, 1); err != nil {
			t.Fatal(err)
		}
		r.soonDone(func() {
			r.up.Freeze()
			pull.Wait()
		})
		r.counted(3)
	})
}

// A registry that takes its time with a GET that it counts, over connections that
// live, is asked once.
func TestDeadConnection_SlowCountedGETIsSentOnce(t *testing.T) {
	t.Parallel()
	onRelay(t, func(t *testing.T, r *relayed) {
		r.fill()
		image := r.next()
		gate := ocitest.NewGate()
		time.AfterFunc(4*time.Second, gate.Open) // longer than a dead connection is waited for
		r.up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet, Repo: "acme/next"}, 1, ocitest.Fault{Hold: gate})
		r.up.Forget()
		r.c.mustPull(deadName+"/acme/next", image, "")
		r.counted(2)
	})
}

// They die in the middle of a layer. Its reader notices a pause.
func TestDeadConnection_MiddleOfALayer(t *testing.T) {
	t.Parallel()
	onRelay(t, func(t *testing.T, r *relayed) {
		r.fill()
		image := r.up.AddImage("acme/next", "1", ocitest.Image{Layers: []int64{24 << 20}})
		layer := image.Platforms[0].Layers[0]
		var dead atomic.Bool
		r.up.Inject(ocitest.Match{
			Server: ocitest.CDNServer, Digest: layer,
			Where: func(ocitest.Request) bool { return !dead.Load() },
		}, 0, ocitest.Stall(1<<20)) // on each connection, so that the layer is not through before they die
		resp, err := r.c.send(soon(t), http.MethodGet, "/v2/"+deadName+"/acme/next/blobs/"+layer.String())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		begun := make([]byte, 1<<20)
		if _, err := io.ReadFull(resp.Body, begun); err != nil {
			t.Fatal(err)
		}
		r.soonDone(func() {
			dead.Store(true)
			r.freeze(1)
			_, hash, err := hashOf(io.MultiReader(strings.NewReader(string(begun)), resp.Body))
			if got := fmt.Sprintf("sha256:%x", hash); err != nil || got != layer.String() {
				t.Errorf("%s, %v", got, err)
			}
		})
		if n := r.up.BlobBytes(layer); n > 25<<20 { // what had come before is not asked for again
			t.Errorf("%d bytes were sent after that", n)
		}
	})
}
