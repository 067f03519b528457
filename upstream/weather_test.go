package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/oci"

	"berth/upstream/dialect"
)

// headerLimit is how long a client waits for a header: containerd leaves after 30 s.
const headerLimit = 20 * time.Second

// voyage is a registry, what asks it, and a cache, in one bubble.
type voyage struct {
	t        *testing.T
	up       *ocitest.Registry
	registry *Registry
	cache    *cache.Cache
}

// sail runs f inside a bubble. Hours there are seconds here.
func sail(t *testing.T, o ocitest.Options, kind string, f func(v *voyage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		memory := ocitest.NewMemoryNet()
		o.Net = memory
		up := ocitest.New(t, o)
		c, err := cache.New(cache.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		f(&voyage{t, up, dialled(t, up, memory, kind), c})
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// dialled is up as one node reaches it.
func dialled(t *testing.T, up *ocitest.Registry, memory *ocitest.MemoryNet, kind string) *Registry {
	t.Helper()
	typed, _ := dialect.TypeNamed(kind)
	r := newRegistry(t, Options{
		Origin: up.Origin(), Type: typed,
		TokenEndpoints: []string{up.TokenURL()},
	})
	r.conns.dial = memory.DialContext
	return r
}

// as is the registry through the cache, as an organisation, or as nobody.
func (v *voyage) as(organisation string) oci.Source {
	u := cache.Upstream{
		Spec: &registry.Spec{Name: "registry.test", Origin: v.up.Origin()},
		As:   v.registry.As(Identity{Organisation: organisation}), Shared: v.registry.As(Identity{}),
	}
	if organisation != "" {
		v.up.AddUser(organisation+"-bot", organisation+"-secret", "**")
		u.As = v.registry.As(as(organisation, organisation+"-bot", organisation+"-secret"))
	}
	return v.cache.Through(u)
}

// open is a request of a client: it has its header within the limit, or an error.
func open(ctx context.Context, s oci.Source, o oci.Object) (*oci.Content, context.CancelFunc, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	clock := time.AfterFunc(headerLimit, func() { cancel(errors.New("no header within 20 s")) })
	c, err := s.Open(ctx, o, oci.Range{})
	clock.Stop()
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return c, func() { cancel(nil) }, nil
}

func fetch(ctx context.Context, s oci.Source, o oci.Object) error {
	c, done, err := open(ctx, s, o)
	if err != nil {
		return err
	}
	defer done()
	defer c.Close()
	h := oci.DigestOf(nil).Algorithm().Hash()
	body := io.Reader(bytes.NewReader(c.Data))
	if c.Body != nil {
		body = c.Body
	}
	if _, err := io.Copy(h, body); err != nil {
		return fmt.Errorf("in the middle of %s: %w", o.Digest, err)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != o.Digest.Encoded() {
		return fmt.Errorf("%w: %s came as %s", errWrong, o.Digest, got)
	}
	return nil
}

var errWrong = errors.New("wrong bytes ended well")

// pull is a pull: the tag, the manifests, the blobs.
func pull(ctx context.Context, s oci.Source, img ocitest.Pushed) error {
	tagged, cancel := context.WithTimeout(ctx, headerLimit)
	defer cancel()
	r, err := s.Resolve(tagged, img.Repo, img.Tag)
	if err != nil {
		return fmt.Errorf("the tag: %w", err)
	}
	if r.Digest != img.Digest {
		return fmt.Errorf("%w: the tag is %s", errWrong, r.Digest)
	}
	if err := fetch(tagged, s, oci.Object{Repo: img.Repo, Kind: oci.Manifest, Digest: img.Digest}); err != nil {
		return fmt.Errorf("the index: %w", err)
	}
	first := img.Platforms[0]
	if err := fetch(ctx, s, oci.Object{Repo: img.Repo, Kind: oci.Manifest, Digest: first.Manifest}); err != nil {
		return fmt.Errorf("the manifest: %w", err)
	}
	for _, d := range img.Blobs(0) {
		if err := fetch(ctx, s, oci.Object{Repo: img.Repo, Kind: oci.Blob, Digest: d}); err != nil {
			return fmt.Errorf("a blob: %w", err)
		}
	}
	return nil
}

// weather makes one request in five fail, in every way in which registries and
// what stands before them do.
type weather struct {
	mu     sync.Mutex
	rng    *rand.Rand
	share  float64
	faults int
	large  map[oci.Digest]bool // not verified before their first byte
}

func (w *weather) fault(r ocitest.Request) ocitest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rng.Float64() >= w.share {
		return ocitest.Fault{}
	}
	w.faults++
	page := ocitest.Status(http.StatusOK, "Content-Type", "text/html")
	page.Body = []byte("<html><body>Please log in to the guest network</body></html>")
	down := ocitest.Status(http.StatusServiceUnavailable, "Content-Type", "text/html")
	down.Body = []byte("<html><h1>503 Service Temporarily Unavailable</h1></html>")
	all := []ocitest.Fault{
		ocitest.Status(500), ocitest.Status(502), ocitest.Status(503), ocitest.Status(504), ocitest.Status(522), ocitest.Status(408), down,
		ocitest.Status(503, "Retry-After", "1"), ocitest.Status(429, "Retry-After", "1"), ocitest.Status(429),
		ocitest.Problem(429, "TOOMANYREQUESTS", "retry-after: 880.092µs, allowed: 44000/minute"),
		ocitest.Drop(), ocitest.Drop(), ocitest.Silence(),
		ocitest.CutAfter(100, ocitest.CutReset), ocitest.CutAfter(700, ocitest.CutClose), ocitest.Stall(300), ocitest.FlipBit(50),
	}
	switch r.Kind {
	case ocitest.Manifest:
		all = append(all, page, ocitest.Fault{Gzip: true}, ocitest.CutAfter(200, ocitest.CutEnd), ocitest.NoHeader("Docker-Content-Digest"),
			ocitest.Header("Content-Type", "application/json"), ocitest.NoHeader("Content-Type"))
	case ocitest.Blob:
		all = append(all, page, ocitest.Fault{IgnoreRange: true}, ocitest.CutAfter(15_000, ocitest.CutClose), ocitest.Stall(9_000))
	}
	f := all[w.rng.IntN(len(all))]
	if f.Flip && (r.Kind == ocitest.Token || w.large[r.Digest]) {
		return ocitest.Fault{} // no fault of the network; and what streams cannot be mended unseen
	}
	return f
}

// Whatever happens to one request in five: pulls succeed, no wrong byte arrives,
// and little is fetched twice.
func TestRoughWeather(t *testing.T) {
	pulls, images := 500, 60
	if os.Getenv("BERTH_LONG") != "" {
		pulls, images = 10_000, 500
	}
	w := &weather{large: map[oci.Digest]bool{}, rng: rand.New(rand.NewPCG(1, uint64(pulls)))}
	sail(t, ocitest.Options{Auth: ocitest.Bearer, CDN: ocitest.CDNSame, Fault: w.fault}, dialect.Generic, func(v *voyage) { v.rough(w, pulls, images) })
}

func (v *voyage) rough(w *weather, pulls, images int) {
	sources := []oci.Source{v.as("acme"), v.as("globex"), v.as("")}
	var all []ocitest.Pushed
	ideal := int64(0)
	for i := range images {
		layers := []int64{20_000, 100_000}
		if i%30 == 0 {
			layers = append(layers, 5<<20)
		}
		img := v.up.AddImage(fmt.Sprint("team/app-", i), "1", ocitest.Image{Index: true, Layers: layers, Seed: uint64(i + 1)})
		for n, size := range img.Platforms[0].Sizes {
			ideal += size
			w.large[img.Platforms[0].Layers[n]] = size > 4<<20
		}
		all = append(all, img)
	}
	w.share = 0.2
	failed := map[string]int{}
	order := rand.New(rand.NewPCG(2, 2))
	for range pulls {
		err := pull(v.t.Context(), sources[order.IntN(3)], all[order.IntN(images)])
		switch {
		case errors.Is(err, errWrong):
			v.t.Error(err)
		case err != nil:
			failed[oci.OneLine(err.Error(), 120)]++
		}
		time.Sleep(time.Duration(order.IntN(4000)) * time.Millisecond)
	}
	w.share = 0
	lost := 0
	for what, n := range failed {
		v.t.Logf("%4d %s", n, what)
		lost += n
	}
	if lost > max(1, pulls/1000) {
		v.t.Errorf("%d of %d pulls failed", lost, pulls)
	}
	sent := int64(0)
	for _, r := range v.up.Requests(ocitest.Match{}) {
		if r.Kind == ocitest.Blob {
			sent += r.Sent
		}
	}
	v.t.Logf("%d pulls, %d failed, %d faults, bytes %.2f of ideal", pulls, lost, w.faults, float64(sent)/float64(ideal))
	if float64(sent) > 1.3*float64(ideal) {
		v.t.Errorf("%d bytes were fetched for %d", sent, ideal)
	}
}

// One fault of each kind, in the middle of a pull: the client sees none of them.
func TestUnseen(t *testing.T) {
	blob, manifest := ocitest.Match{Kind: ocitest.Blob}, ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}
	for name, c := range map[string]struct {
		match ocitest.Match
		times int
		fault ocitest.Fault
	}{
		"a blob cut in half":            {blob, 1, ocitest.CutAfter(3<<20, ocitest.CutClose)},
		"a blob reset":                  {blob, 1, ocitest.CutAfter(3<<20, ocitest.CutReset)},
		"two 503":                       {blob, 2, ocitest.Status(503)},
		"two 503 for everything":        {ocitest.Match{}, 2, ocitest.Status(503)},
		"a 429 with Retry-After 1":      {manifest, 1, ocitest.Status(429, "Retry-After", "1")},
		"a 429 for a blob":              {blob, 1, ocitest.Status(429, "Retry-After", "1")},
		"a bit of a small blob":         {ocitest.Match{Kind: ocitest.Blob, Where: func(r ocitest.Request) bool { return r.Range == "" || r.Range == "bytes=0-16777215" }}, 1, ocitest.FlipBit(100)},
		"a bit of a manifest":           {manifest, 1, ocitest.FlipBit(100)},
		"half a manifest":               {manifest, 1, ocitest.CutAfter(100, ocitest.CutClose)},
		"a stall in a manifest":         {manifest, 1, ocitest.Stall(100)},
		"a stall in a blob":             {blob, 1, ocitest.Stall(1000)},
		"a stall in a large blob":       {blob, 1, ocitest.Stall(5 << 20)},
		"silence":                       {ocitest.Match{}, 1, ocitest.Silence()},
		"a web page for a blob":         {blob, 1, ocitest.Fault{Status: 200, Body: []byte("<html>"), Header: http.Header{"Content-Type": {"text/html"}}}},
		"a token answer cut in half":    {ocitest.Match{Kind: ocitest.Token}, 1, ocitest.CutAfter(20, ocitest.CutClose)},
		"a token endpoint in trouble":   {ocitest.Match{Kind: ocitest.Token}, 2, ocitest.Status(503)},
		"a token endpoint that is mute": {ocitest.Match{Kind: ocitest.Token}, 1, ocitest.Silence()},
	} {
		sail(t, ocitest.Options{Auth: ocitest.Bearer}, dialect.Generic, func(v *voyage) {
			acme := v.as("acme")
			layers := []int64{20_000, 6 << 20}
			if name == "a bit of a small blob" {
				layers = layers[:1] // of a larger one bytes are on their way before it is verified
			}
			img := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: layers})
			in := v.up.Inject(c.match, c.times, c.fault)
			if err := pull(v.t.Context(), acme, img); err != nil {
				v.t.Errorf("%s: %v", name, err)
			}
			if in.Hits() != c.times {
				v.t.Errorf("%s: it happened %d times", name, in.Hits())
			}
		})
	}
}

// The registry is dead for ten minutes, in each of the ways to be dead: whoever
// had proven access pulls on, in time, and it is left in peace.
func TestDeadForTenMinutes(t *testing.T) {
	for name, fault := range map[string]ocitest.Fault{"mute": ocitest.Silence(), "reset": ocitest.Drop(), "503": ocitest.Status(503), "500": ocitest.Status(500)} {
		for _, crowd := range []int{1, 8} {
			t.Run(fmt.Sprint(name, " ", crowd), func(t *testing.T) {
				sail(t, ocitest.Options{Auth: ocitest.Bearer, Private: true}, dialect.Generic, func(v *voyage) { v.deadForTenMinutes(fault, crowd) })
			})
		}
	}
}

func (v *voyage) deadForTenMinutes(fault ocitest.Fault, crowd int) {
	sources := []oci.Source{v.as("acme"), v.as("globex")}
	var images []ocitest.Pushed
	for i := range 10 {
		images = append(images, v.up.AddImage(fmt.Sprint("acme/app-", i), "1", ocitest.Image{Index: true, Layers: []int64{1000, 2000}}))
		for _, s := range sources {
			if err := pull(v.t.Context(), s, images[i]); err != nil {
				v.t.Fatal(err)
			}
		}
	}
	stranger := v.as("initech")
	time.Sleep(time.Hour)
	dead := v.up.Inject(ocitest.Match{}, 0, fault)
	v.up.Forget()
	long := 10 * time.Minute
	if crowd > 1 && os.Getenv("BERTH_LONG") == "" {
		long = 3 * time.Minute // what takes longer does not need a crowd
	}
	begin := time.Now()
	for n := 0; time.Since(begin) < long; n += crowd {
		var all sync.WaitGroup
		for i := range crowd {
			all.Go(func() {
				img := images[(n+i)/2%len(images)]
				v.within(headerLimit, "a pull", func() {
					if err := pull(v.t.Context(), sources[(n+i)%2], img); err != nil {
						v.t.Errorf("a pull after %v: %v", time.Since(begin), err)
					}
				})
				v.within(headerLimit, "a refusal", func() {
					if _, err := stranger.Resolve(v.t.Context(), img.Repo, "1"); err == nil {
						v.t.Error("a stranger got an answer")
					}
				})
			})
		}
		all.Wait()
		time.Sleep(900 * time.Millisecond)
	}
	v.oneASecond(begin)
	dead.Remove()
	v.recovers(sources[0], images[0])
}

// within says when f took longer.
func (v *voyage) within(limit time.Duration, what string, f func()) {
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		v.t.Errorf("%s took %v", what, took)
	}
}

// findsOut is how many requests it may take to find out that a registry is dead:
// as many as weigh what opens a breaker, if each is answered by 500, once more until a
// second organisation has met as many as count, and the few that were on their way then.
const findsOut = 2*breakerLimit + 5

// oneASecond wants a registry that has been dead since begin to be asked no more
// than once a second: on the whole, and each time after it took some to find out.
func (v *voyage) oneASecond(begin time.Time) {
	requests := v.up.Requests(ocitest.Match{})
	seconds := int(time.Since(begin).Seconds())
	together := 0
	for i := 1; i < len(requests); i++ {
		if gap := requests[i].Start.Sub(requests[i-1].Start); gap < probeEvery {
			together = i + 1
		}
	}
	v.t.Logf("%d requests in %d seconds; the last two within a second were among the first %d", len(requests), seconds, together)
	if together > findsOut {
		v.t.Errorf("after %d requests there were still two within a second: %s and %s",
			together-2, requests[together-2].Path, requests[together-1].Path)
	}
	if len(requests) > seconds {
		v.t.Errorf("%d requests in %d seconds", len(requests), seconds)
	}
}

// recovers wants s to have a fresh answer a second after the registry is back.
func (v *voyage) recovers(s oci.Source, img ocitest.Pushed) {
	v.t.Helper()
	time.Sleep(time.Second)
	begin := time.Now()
	r, err := s.Resolve(v.t.Context(), img.Repo, img.Tag)
	if took := time.Since(begin); err != nil || r.Warning != "" || took > time.Second {
		v.t.Errorf("afterwards, after %v: %q, %v", took, r.Warning, err)
	}
}

// A thousand pulls a second of one tag: one HEAD a minute for each principal.
func TestThousandPullsASecond(t *testing.T) {
	sail(t, ocitest.Options{Auth: ocitest.Bearer}, dialect.Generic, func(v *voyage) {
		sources := []oci.Source{v.as("acme"), v.as("globex"), v.as("")}
		img := v.up.AddImage("acme/app", "1", ocitest.Image{Index: true, Layers: []int64{1000}})
		for _, s := range sources {
			if err := pull(v.t.Context(), s, img); err != nil {
				v.t.Fatal(err)
			}
		}
		v.up.Forget()
		for range 65 * 50 { // the first minute is still that of the pulls above
			var all sync.WaitGroup
			for n := range 20 {
				all.Go(func() {
					if r, err := sources[n%3].Resolve(v.t.Context(), "acme/app", "1"); err != nil || r.Warning != "" {
						v.t.Errorf("%q, %v", r.Warning, err)
					}
				})
			}
			all.Wait()
			time.Sleep(20 * time.Millisecond)
		}
		if n := v.up.ManifestHEADs(); n != 3 || v.up.ManifestGETs() != 0 {
			v.t.Errorf("%d HEADs and %d GETs", n, v.up.ManifestGETs())
		}
	})
}

// Docker Hub's pull limit is used up: what is known is pulled on as if nothing
// were, what is not is refused from memory until the limit has refilled.
func TestPullLimitIsUsedUp(t *testing.T) {
	sail(t, ocitest.Options{Auth: ocitest.Bearer}, dialect.DockerHub, func(v *voyage) {
		acme := v.as("acme")
		known := v.up.AddImage("acme/known", "1", ocitest.Image{Index: true, Layers: []int64{1000}})
		unknown := v.up.AddImage("acme/unknown", "1", ocitest.Image{Index: true, Layers: []int64{1000}, Seed: 2})
		if err := pull(v.t.Context(), acme, known); err != nil {
			v.t.Fatal(err)
		}
		limit := v.up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 0,
			ocitest.Problem(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.", "Retry-After", "1800"))
		v.up.Forget()
		for minute := range 29 {
			time.Sleep(time.Minute)
			if err := pull(v.t.Context(), acme, known); err != nil {
				v.t.Errorf("minute %d: %v", minute, err)
			}
			if r, err := acme.Resolve(v.t.Context(), "acme/known", "1"); err != nil || r.Warning != "" {
				v.t.Errorf("minute %d: %q, %v", minute, r.Warning, err)
			}
			for range 10 { // a client that does not give up
				err := pull(v.t.Context(), acme, unknown)
				if e := oci.AsError(err); e.Class != oci.RateLimited || minute > 0 && (e.RetryAfter > 30*time.Minute || e.RetryAfter < time.Second) {
					v.t.Fatalf("minute %d: %v, %v", minute, err, e.RetryAfter)
				}
			}
		}
		if heads, gets := v.up.ManifestHEADs(), v.up.ManifestGETs(); heads < 29 || gets != 1 {
			v.t.Errorf("%d HEADs and %d GETs", heads, gets)
		}
		limit.Remove()
		time.Sleep(3 * time.Minute)
		if err := pull(v.t.Context(), acme, unknown); err != nil {
			v.t.Errorf("afterwards: %v", err)
		}
	})
}
