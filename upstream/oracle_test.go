package upstream

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/oci"
)

// learned is what a stranger learns from one request: what he is told, after how long, and
// what the registry is asked for it.
type learned struct {
	told  string
	after time.Duration
	asked []string
}

// stranger asks for something of a repository, in whatever form.
type stranger struct {
	name string
	kind oci.Kind
	ask  func(context.Context, oci.Source, oci.Object) (*oci.Content, error)
}

var strangers = []stranger{
	{"GET of a manifest", oci.Manifest, whole},
	{"HEAD of a manifest", oci.Manifest, stat},
	{"GET of a blob", oci.Blob, whole},
	{"HEAD of a blob", oci.Blob, stat},
	{"the first bytes", oci.Blob, pieceOf(oci.Range{Length: 2})},
	{"bytes from the middle", oci.Blob, pieceOf(oci.Range{Start: 100, Length: 2000})},
	{"all from the middle", oci.Blob, pieceOf(oci.Range{Start: 100})},
	{"the last bytes", oci.Blob, pieceOf(oci.Range{Start: -10})},
	{"several pieces", oci.Blob, pieceOf(oci.Range{Sparse: true})},
}

func whole(ctx context.Context, s oci.Source, o oci.Object) (*oci.Content, error) {
	return s.Open(ctx, o, oci.Range{})
}

func pieceOf(r oci.Range) func(context.Context, oci.Source, oci.Object) (*oci.Content, error) {
	return func(ctx context.Context, s oci.Source, o oci.Object) (*oci.Content, error) { return s.Open(ctx, o, r) }
}

// atLimit is what a stranger has done before he asks.
type atLimit struct {
	name string
	rate limit.Rate
	hung bool // the registry does not answer what he does
	do   func(*tenancy)
}

var atLimits = []atLimit{
	{"at none", limit.Rate{}, false, func(*tenancy) {}},
	{"at his rate", limit.Rate{PerSecond: 1, Burst: 4}, false, func(w *tenancy) { w.questions(10, 0) }},
	{"at his rate, with others of his in line", limit.Rate{PerSecond: 1, Burst: 4}, false, func(w *tenancy) { w.questions(8, 2) }},
	{"at his rate, with a long line", limit.Rate{PerSecond: 1, Burst: 4}, false, func(w *tenancy) { w.questions(4, 30) }},
	{"at his rate, blobs of his in line", limit.Rate{PerSecond: 1, Burst: 4}, false, func(w *tenancy) { w.downloads(10) }},
	{"at what a registry sends at once", limit.Rate{}, true, func(w *tenancy) { w.downloads(20) }},
	{"at what a registry is asked at once", limit.Rate{}, true, func(w *tenancy) { w.bytes.Most = 0; w.gets(20) }},
	{"at his memory", limit.Rate{}, true, func(w *tenancy) { w.gets(2) }},
	{"at all his questions at once", limit.Rate{}, true, func(w *tenancy) { w.questions(0, 100) }},
}

// questions has globex ask for n images of its own that are not there, and for waiting more
// besides, whose answers nobody waits for.
func (w *tenancy) questions(n, waiting int) {
	s := w.as("globex")
	for i := range n {
		_, _ = s.Resolve(w.t.Context(), ofGlobex, fmt.Sprint("none", i)) // they are not there
	}
	for i := range waiting {
		w.mischief.Go(func() {
			ctx, cancel := context.WithTimeout(w.t.Context(), headerLimit)
			defer cancel()
			_, _ = s.Resolve(ctx, ofGlobex, fmt.Sprint("more", i)) // nor these
		})
	}
	synctest.Wait()
}

// downloads has globex pull n blobs of its own, of which it does not wait for the end.
func (w *tenancy) downloads(n int) {
	for i := range n {
		d := w.up.AddNoise(ofGlobex, uint64(100+i), 1<<20)
		w.leaves(oci.Object{Repo: ofGlobex, Kind: oci.Blob, Digest: d})
	}
	synctest.Wait()
}

// gets is the same for manifests.
func (w *tenancy) gets(n int) {
	for i := range n {
		img := w.up.AddImage(ofGlobex, fmt.Sprint("own", i), ocitest.Image{Layers: []int64{100}, Seed: uint64(100 + i)})
		w.leaves(oci.Object{Repo: ofGlobex, Kind: oci.Manifest, Digest: img.Digest})
	}
	synctest.Wait()
}

func (w *tenancy) leaves(o oci.Object) {
	s := w.as("globex")
	w.mischief.Go(func() {
		ctx, cancel := context.WithTimeout(w.t.Context(), headerLimit)
		defer cancel()
		if c, err := s.Open(ctx, o, oci.Range{}); err == nil {
			c.Close()
		}
	})
}

// askAtLimit is what globex, who has no right to acme's image, learns by asking for something
// of it in repo: for what is kept, or for what never was here.
func askAtLimit(t *testing.T, seed uint64, at atLimit, how stranger, repo string, lists func(*tenancy, oci.Digest), kept bool) (got learned) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newTenancy(t, seed, func(w *tenancy) {
			w.times.AccessTTL = 5 * time.Minute
			w.rate, w.bytes = cmp.Or(at.rate, w.rate), &limit.Pool{Most: 2 * oci.MaxManifest}
		})
		w.revoke(true)
		if err := pull(t.Context(), w.as("acme"), w.image); err != nil {
			t.Fatal(err)
		}
		img := w.image
		if !kept {
			img = w.another(ofImage)
		}
		o := oci.Object{Repo: repo, Kind: how.kind, Digest: img.Platforms[0].Manifest}
		if how.kind == oci.Blob {
			o.Digest = img.Platforms[0].Layers[1]
		}
		if err := fetch(t.Context(), w.as("globex"), oci.Object{Repo: ofGlobex, Kind: oci.Blob, Digest: w.large}); err != nil {
			t.Fatal(err) // it may read its own repository, which is known from now on
		}
		lists(w, o.Digest)
		time.Sleep(time.Minute)
		if at.hung {
			w.up.Inject(ocitest.Match{Repo: ofGlobex, Where: func(r ocitest.Request) bool { return r.Digest != o.Digest }}, 0, ocitest.Silence())
		}
		at.do(w)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), headerLimit)
		defer cancel()
		c, err := how.ask(ctx, w.as("globex"), o)
		got.after = time.Since(begun)
		if err == nil {
			c.Close()
			t.Fatal("a stranger was served")
		}
		got.told = strings.ReplaceAll(fmt.Sprint(oci.ClassOf(err), " ", oci.AsError(err).For("")), o.Digest.String(), "DIGEST")
		for _, r := range w.up.Requests(ocitest.Match{Digest: o.Digest, User: "globex-bot"}) {
			got.asked = append(got.asked, fmt.Sprint(r.Kind, " after ", r.Start.Sub(begun)))
		}
		w.stop()
	})
	return got
}

// askedAt is where a stranger asks for what is acme's.
var askedAt = []struct {
	name, repo string
	lists      func(*tenancy, oci.Digest) // what he does there before
}{
	{"in acme's repository", ofImage, func(*tenancy, oci.Digest) {}},
	{"in his own", ofGlobex, func(*tenancy, oci.Digest) {}},
	{"in his own, which lists it", ofGlobex, (*tenancy).lists},
}

// lists has globex pull manifests of its own which list d. A registry does not look whether it
// has a layer that lies elsewhere, and some do not for what an index lists.
func (w *tenancy) lists(d oci.Digest) {
	own := w.up.AddNoise(ofGlobex, 4, 100)
	const foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	for mediaType, parts := range map[string]string{
		oci.MediaTypeDockerManifest: fmt.Sprintf(`"config":{"mediaType":"application/json","size":100,"digest":%q},"layers":[{"mediaType":%q,"size":3000,"digest":%q}]`, own, foreign, d),
		oci.MediaTypeDockerList:     fmt.Sprintf(`"manifests":[{"mediaType":%q,"size":500,"digest":%q}]`, oci.MediaTypeDockerManifest, d),
	} {
		listing := w.up.AddManifest(ofGlobex, "", mediaType, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,%s}`, mediaType, parts))
		if err := fetch(w.t.Context(), w.as("globex"), oci.Object{Repo: ofGlobex, Kind: oci.Manifest, Digest: listing}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// Whoever may not see something learns by no request whether it is kept here: not by what he
// is told, not by how long that takes, and not by what the registry is asked. At his own limits
// neither, and not by asking for it in a repository of his own.
func TestOracle_AtOnesLimits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BERTH_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("BERTH_SEED=%d", seed)
	var waited, refused atomic.Int64
	t.Run("all", func(t *testing.T) {
		for i, at := range atLimits {
			for j, how := range strangers {
				for k, where := range askedAt {
					if os.Getenv("BERTH_LONG") == "" && uint64(i+j+3*k)%uint64(len(strangers)) != seed%uint64(len(strangers)) {
						continue // each state, in each place in one form
					}
					t.Run(at.name+"/"+how.name+"/"+where.name, func(t *testing.T) {
						t.Parallel()
						kept := askAtLimit(t, seed, at, how, where.repo, where.lists, true)
						not := askAtLimit(t, seed, at, how, where.repo, where.lists, false)
						if kept.told != not.told || kept.after != not.after || !slices.Equal(kept.asked, not.asked) {
							t.Errorf("what is kept:\n%+v\nwhat is not:\n%+v", kept, not)
						}
						if kept.after > time.Second {
							waited.Add(1)
						}
						if len(kept.asked) == 0 {
							refused.Add(1)
						}
					})
				}
			}
		}
	})
	if waited.Load() == 0 || refused.Load() == 0 {
		t.Errorf("at limits %d waited, and %d were refused", waited.Load(), refused.Load())
	}
}

// Who may have an image is asked for his right no more often for having to wait: a cold pull
// of many layers costs one request for each, also beyond what a registry sends at once, and
// beyond the rate.
func TestRight_OfWhoWaitsIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTenancy(t, 1, func(w *tenancy) { w.rate = limit.Rate{PerSecond: 5, Burst: 10} })
		layers := make([]int64, 60)
		for i := range layers {
			layers[i] = int64(1000 + i)
		}
		img := w.up.AddImage(ofImage, "many", ocitest.Image{Layers: layers, Seed: 5})
		s, blobs := w.as("acme"), img.Blobs(0)
		if err := fetch(t.Context(), s, oci.Object{Repo: ofImage, Kind: oci.Manifest, Digest: img.Digest}); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for _, d := range blobs {
			all.Go(func() {
				if err := fetch(t.Context(), s, oci.Object{Repo: ofImage, Kind: oci.Blob, Digest: d}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := w.up.Count(ocitest.Match{Kind: ocitest.Blob}); n != len(blobs) {
			t.Errorf("%d requests for %d blobs", n, len(blobs))
		}
		w.stop()
	})
}

func stat(ctx context.Context, s oci.Source, o oci.Object) (*oci.Content, error) {
	return s.Stat(ctx, o)
}
