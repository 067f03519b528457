package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/cache"
	"berth/fleet"
	"berth/fleet/memfleet"
	"berth/fleet/seal"
	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/oci"
)

// crowd is several nodes at one registry, with a fleet.
type crowd struct {
	*origin

	t           *testing.T
	id          oci.Origin
	bucket      *memfleet.Bucket
	coordinator *memfleet.Coordinator
	nodes       []*member
	verified    bool   // stream: verified
	dead        string // the node that was killed
	more        func(*cache.Options)
	memory      *limit.Pool // of each node, for parts; nil: any amount
}

// member is one node of a crowd.
type member struct {
	*crowd

	name  string
	cache *cache.Cache
	tier  *fleet.Tier
	at    *memfleet.Node
	// numbers are the metrics.
	numbers *prometheus.Registry
	dir     string
	// hosts are the organisations whose fleet keys are here.
	hosts map[string]bool
}

func key(of string) seal.Key {
	var k [seal.KeySize]byte
	copy(k[:], "a key for tests, of "+of)
	return seal.NewKey(k)
}

func newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	w := &crowd{
		origin: newOrigin(t), t: t, id: oci.Origin{Scheme: "https", Host: "registry.example"},
		bucket: &memfleet.Bucket{}, coordinator: &memfleet.Coordinator{},
	}
	w.bubble = true
	for i := range n {
		w.add(fmt.Sprintf("node-%d", i), "acme", "globex")
	}
	return w
}

// add is one more node, with the keys of these organisations.
func (w *crowd) add(name string, hosts ...string) *member {
	w.t.Helper()
	m := &member{crowd: w, name: name, dir: ocitest.MemoryDir(w.t), hosts: map[string]bool{}}
	for _, h := range hosts {
		m.hosts[h] = true
	}
	m.at, m.numbers = w.coordinator.Node(name), prometheus.NewRegistry()
	metrics, err := fleet.NewMetrics(m.numbers)
	if err != nil {
		w.t.Fatal(err)
	}
	m.tier = fleet.New(fleet.Options{
		Bucket: m.at.In(w.bucket), Coordinator: m.at, Metrics: metrics, Verified: w.verified,
		Memory: func(ctx context.Context, organisation string, n int64) (func(), error) {
			slot, err := w.memory.Take(ctx, limit.Want{Organisation: organisation, N: n})
			return slot.Release, err
		},
		Public: func() []seal.Scope { return []seal.Scope{seal.Public(key("everyone"))} },
	})
	o := cache.Options{Dir: m.dir, Now: w.clock, Fleet: m.tier}
	if w.more != nil {
		w.more(&o)
	}
	m.cache = open(w.t, o)
	w.t.Cleanup(m.tier.Close) // before the cache, whose files it reads
	w.nodes = append(w.nodes, m)
	return m
}

// as is the registry through this node, as an organisation that has an account if it has
// a secret.
func (m *member) as(organisation, secret string) oci.Source {
	return m.cache.Through(cache.Upstream{
		Organisation: organisation, As: m.origin.as(organisation, secret), Shared: m.origin.as(m.name, ""),
		Spec: &registry.Spec{Name: "registry.example", Origin: m.id, Trust: registry.Trust{UniformView: true}},
		Scopes: func(context.Context, string) []seal.Scope {
			if !m.hosts[organisation] {
				return nil
			}
			return []seal.Scope{seal.Private(key(organisation), m.id.Dir(), organisation, secret)}
		},
	})
}

// faults is how often this node has counted a fault of another.
func (m *member) faults(node string) (n float64) {
	m.t.Helper()
	families, err := m.numbers.Gather()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if f.GetName() == "berth_fleet_faults_total" && l.GetName() == "node" && l.GetValue() == node {
					n += s.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// image adds an image of these layers. The last object is its manifest.
func (w *crowd) image(repo string, layers ...[]byte) (blobs []oci.Object, manifest oci.Object) {
	var listed []string
	for _, l := range layers {
		b := w.addBlob(repo, l)
		blobs = append(blobs, b)
		listed = append(listed, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, b.Digest, len(l)))
	}
	manifest = w.addManifest(repo, "latest", fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}`, listed[0], strings.Join(listed[1:], ",")))
	return blobs, manifest
}

// index makes the tag mean an index over manifest.
func (w *crowd) index(repo string, manifest oci.Object) oci.Object {
	return w.addManifest(repo, "latest", fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, manifest.Digest, len(w.objects[manifest])))
}

// pullImage is what a client does: the tag, the manifest, the blobs.
func pullImage(ctx context.Context, s oci.Source, repo string, manifest oci.Object, blobs []oci.Object) error {
	if _, err := s.Resolve(ctx, repo, "latest"); err != nil {
		return fmt.Errorf("tag: %w", err)
	}
	for _, o := range append([]oci.Object{manifest}, blobs...) {
		if err := check(ctx, s, o); err != nil {
			return fmt.Errorf("%s %s: %w", o.Kind, o.Digest, err)
		}
	}
	return nil
}

// sealedUp waits until what was fetched has been given to the fleet.
func (w *crowd) sealedUp() {
	synctest.Wait()
	time.Sleep(time.Second)
}

// Parts that come from other nodes are in memory until the disk has them, and no more of
// them than there is memory for, whoever it is for: nothing of it is lost, and where there
// is too little the registry gives the rest.
func TestFleet_PartsHaveAShareOfMemory(t *testing.T) {
	const part = 8*mib + 1<<10
	for name, c := range map[string]struct {
		pool   *limit.Pool
		shared bool
	}{
		"two parts": {&limit.Pool{Most: 2 * part, Queue: 1000}, true},
		"none":      {&limit.Pool{Most: 2 * part, Queue: 1000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCrowd(t, 1)
				layers := [][]byte{random(1, 40*mib), random(2, 40*mib), random(3, 40*mib)}
				blobs, manifest := w.image("library/app", layers...)
				if err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs); err != nil {
					t.Fatal(err)
				}
				w.sealedUp()
				sent := w.bytesSent()
				w.memory = c.pool
				var all limit.Slot
				if !c.shared {
					all = c.pool.Charge("", 2*part)
				}
				if err := pullImage(t.Context(), w.add("late").as("", ""), "library/app", manifest, blobs); err != nil {
					t.Fatal(err)
				}
				if came := w.bytesSent() - sent; (came == 0) != c.shared {
					t.Errorf("%d bytes came from the registry", came)
				}
				all.Release()
				left, err := c.pool.Take(t.Context(), limit.Want{N: 2 * part})
				if err != nil {
					t.Errorf("memory is lost: %v", err)
				}
				left.Release()
			})
		})
	}
}

func TestFleet_OneCopyForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 6)
		layers := [][]byte{random(1, 5_000), random(2, 3*mib), random(3, 20*mib+17)}
		blobs, manifest := w.image("library/app", layers...)
		total := int64(len(bytes.Join(layers, nil)))

		var wg sync.WaitGroup
		errs := make([]error, len(w.nodes))
		for i, n := range w.nodes {
			wg.Go(func() { errs[i] = pullImage(t.Context(), n.as("", ""), "library/app", manifest, blobs) })
		}
		wg.Wait()
		wantAll(t, errs)
		if n := w.count("open", oci.Manifest); n != 1 {
			t.Errorf("%d counted GETs", n)
		}
		if sent := w.bytesSent(); sent != total {
			t.Errorf("%d bytes came from the registry, of %d", sent, total)
		}
		// Who comes later has it too, and the registry is asked about the tag alone.
		w.sealedUp()
		sent, asked := w.bytesSent(), w.count("open", oci.Blob)+w.count("stat", oci.Blob)
		late := w.add("late")
		if err := pullImage(t.Context(), late.as("", ""), "library/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		if w.bytesSent() != sent || w.count("open", oci.Blob)+w.count("stat", oci.Blob) != asked {
			t.Errorf("a node that came later has taken %d bytes from the registry", w.bytesSent()-sent)
		}
	})
}

// Workers that go beside each other do not read the same part.
func TestFleet_NoPartIsReadTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		const size = 96 * mib
		blobs, manifest := w.image("library/app", random(1, size))
		if err := pullImage(t.Context(), w.nodes[0].as("", ""), "library/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		w.sealedUp()
		w.bucket.Set(func(b *memfleet.Bucket) {
			b.Fault = func(context.Context, string, string) error { time.Sleep(100 * time.Millisecond); return nil }
		})
		begin := time.Now()
		if err := pullImage(t.Context(), w.nodes[1].as("", ""), "library/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		parts := seal.Parts(size)
		if w.bucket.Gets != parts {
			t.Errorf("%d parts were read, of %d", w.bucket.Gets, parts)
		}
		if took := time.Since(begin); took >= time.Duration(parts)*100*time.Millisecond {
			t.Errorf("one worker has read them all, in %v", took)
		}
	})
}

// What is private goes to those alone who go by the same account, and each of their
// nodes asks the registry whether the blob is in the repository.
func TestFleet_PrivateStaysInItsScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		w.add("stranger", "globex") // has not acme's key
		secretBlob := bytes.Repeat([]byte("CANARY of acme. "), 200_000)
		small := []byte("CANARY of acme, which fits into memory")
		blobs, manifest := w.image("acme/app", secretBlob, small)
		w.set(func() { w.private["acme/app"] = []string{"acme", "globex"} })

		if err := pullImage(t.Context(), w.nodes[0].as("acme", "s1"), "acme/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		w.sealedUp()
		sent := w.bytesSent()
		if err := pullImage(t.Context(), w.nodes[1].as("acme", "s1"), "acme/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		if got := w.bytesSent() - sent; got > 2 {
			t.Errorf("the second node has taken %d bytes from the registry", got)
		}
		if n := w.count("stat", oci.Blob); n != 2 {
			t.Errorf("it has asked %d times whether the blob is there", n)
		}
		// globex has a right of its own, and nothing of what acme's nodes have shared: not
		// where acme's key is, and not on the node that has already taken it.
		for _, n := range w.nodes[1:] {
			sent = w.bytesSent()
			if err := pullImage(t.Context(), n.as("globex", "s2"), "acme/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			if n == w.nodes[1] && w.bytesSent()-sent < int64(len(secretBlob)+len(small)) {
				t.Errorf("%s gave globex what came out of acme's scope", n.name)
			}
			w.sealedUp()
		}
		for at, sealed := range w.bucket.All() {
			if bytes.Contains(sealed, []byte("CANARY")) || strings.Contains(at, "acme") {
				t.Errorf("%s can be read", at)
			}
		}
	})
}

// Whoever was revoked has nothing from the fleet on a node that never asked.
func TestFleet_TheRevokedGetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		blobs, manifest := w.image("acme/app", random(1, 3*mib))
		w.set(func() { w.private["acme/app"] = []string{"acme"} })
		if err := pullImage(t.Context(), w.nodes[0].as("acme", "s1"), "acme/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		w.sealedUp()
		second := w.nodes[1].as("acme", "s1")
		if err := check(t.Context(), second, manifest); err != nil { // it knows what the manifest lists
			t.Fatal(err)
		}
		w.set(func() { w.private["acme/app"] = []string{"nobody"} })
		time.Sleep(6 * time.Minute)
		gets := w.bucket.Gets
		if data, err := get(t.Context(), second, blobs[0], oci.Range{}); oci.ClassOf(err) != oci.Denied && oci.ClassOf(err) != oci.NotFound {
			t.Errorf("%d bytes, %v (the bucket was read %d times)", len(data), err, w.bucket.Gets-gets)
		}
	})
}

// A private blob that somebody lists in a public manifest stays private.
func TestFleet_AListingIsNoRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		data := random(1, 3*mib)
		blobs, manifest := w.image("acme/app", data)
		w.set(func() { w.private["acme/app"] = []string{"acme"} })
		for _, n := range w.nodes {
			if err := pullImage(t.Context(), n.as("acme", "s1"), "acme/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
		}
		evil := w.addManifest("mallory/app", "latest", fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, blobs[0].Digest, len(data)))
		for _, n := range w.nodes {
			for _, who := range []string{"", "globex"} {
				s := n.as(who, who)
				if err := check(t.Context(), s, evil); err != nil {
					t.Fatal(err)
				}
				stolen := oci.Object{Repo: "mallory/app", Kind: oci.Blob, Digest: blobs[0].Digest}
				if got, err := get(t.Context(), s, stolen, oci.Range{}); err == nil {
					t.Errorf("%q has got %d bytes of acme's blob on %s", who, len(got), n.name)
				}
			}
		}
	})
}

// What came out of a scope lies apart, and what the registry sent lies as ever.
func TestFleet_PlacesOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		blobs, manifest := w.image("library/app", random(1, 9*mib))
		for _, n := range w.nodes {
			if err := pullImage(t.Context(), n.as("", ""), "library/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
		}
		hex := blobs[0].Digest.Encoded()
		scope := seal.Public(key("everyone")).ID()
		for i, folder := range []string{w.id.Dir(), w.id.Dir() + "+" + scope} {
			if _, err := os.Stat(filepath.Join(w.nodes[i].dir, "blobs", folder, "sha256", hex[:2], hex)); err != nil {
				t.Errorf("%s: %v", w.nodes[i].name, err)
			}
		}
	})
}

// What came from other nodes is listed with the images, and deleted with them.
func TestFleet_ImagesAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		blobs, manifest := w.image("library/app", random(1, 3*mib), random(2, 100))
		for _, n := range w.nodes {
			if err := pullImage(t.Context(), n.as("", ""), "library/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
			n.cache.Settle()
		}
		c := w.nodes[1].cache
		images, err := c.Images(t.Context())
		if err != nil || len(images) != 1 || images[0].Size != images[0].Of || images[0].Size < 3*mib {
			t.Fatalf("%+v, %v", images, err)
		}
		removed, err := c.Remove(t.Context(), cache.Choice{Image: func(string, string, []string, oci.Digest) bool { return true }})
		if err != nil || removed.Manifests != 1 || removed.Blobs != 2 || removed.Freed < 3*mib {
			t.Errorf("%+v, %v", removed, err)
		}
		if images, err = c.Images(t.Context()); err != nil || len(images) != 0 {
			t.Errorf("%+v, %v", images, err)
		}
	})
}

// What everyone may see is shared by all who have an account, and by those who have none.
func TestFleet_PublicImagesAreSharedByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 3)
		w.image("library/other", random(9, 100))
		blobs, manifest := w.image("library/app", random(1, 3*mib), random(2, 100))
		if err := pullImage(t.Context(), w.nodes[0].as("acme", "s1"), "library/app", manifest, blobs); err != nil {
			t.Fatal(err)
		}
		w.sealedUp()
		sent, gets := w.bytesSent(), w.count("open", oci.Manifest)
		for i, who := range []string{"globex", ""} {
			if err := pullImage(t.Context(), w.nodes[i+1].as(who, who), "library/app", manifest, blobs); err != nil {
				t.Fatal(err)
			}
		}
		if w.bytesSent() != sent || w.count("open", oci.Manifest) != gets {
			t.Errorf("others have taken %d bytes and %d manifests from the registry", w.bytesSent()-sent, w.count("open", oci.Manifest)-gets)
		}
		time.Sleep(5 * time.Minute) // what was going to be asked in the background is
	})
}

// What another node has brought here stays a member of its repository as what the registry
// sent does: while somebody asks about the tag, nobody has to ask about each blob.
func TestFleet_RenewsWhatIsListed(t *testing.T) {
	for what, readers := range map[string][]string{"private": {"acme"}, "public": nil} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCrowd(t, 2)
				blobs, manifest := w.image("acme/app", random(1, 3*mib), random(2, 100))
				if readers != nil {
					w.set(func() { w.private["acme/app"] = readers })
				}
				for _, n := range w.nodes {
					if err := pullImage(t.Context(), n.as("acme", "s1"), "acme/app", manifest, blobs); err != nil {
						t.Fatal(err)
					}
					w.sealedUp()
				}
				sent, asked := w.bytesSent(), w.count("stat", oci.Blob)+w.count("open", oci.Blob)
				second := w.nodes[1].as("acme", "s1")
				for range 30 {
					time.Sleep(time.Hour)
					if _, err := second.Resolve(t.Context(), "acme/app", "latest"); err != nil {
						t.Fatal(err)
					}
				}
				if err := pullImage(t.Context(), second, "acme/app", manifest, blobs); err != nil {
					t.Fatal(err)
				}
				if again := w.count("stat", oci.Blob) + w.count("open", oci.Blob); again != asked || w.bytesSent() != sent {
					t.Errorf("the registry was asked about blobs %d times more", again-asked)
				}
			})
		})
	}
}

// Most images are listed by an index: who has that from the registry needs no more of it.
func TestFleet_AnIndexIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 2)
		blobs, manifest := w.image("library/app", random(1, 3*mib), random(2, 100))
		index := w.index("library/app", manifest)
		all := append([]oci.Object{manifest}, blobs...)
		asked := 0
		for _, n := range w.nodes {
			asked = w.count("stat", oci.Blob) + w.count("open", oci.Blob)
			if err := pullImage(t.Context(), n.as("", ""), "library/app", index, all); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
		}
		if again := w.count("stat", oci.Blob) + w.count("open", oci.Blob); again != asked {
			t.Errorf("the registry was asked about blobs %d times by the second node", again-asked)
		}
	})
}
