package fleet

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/fleet/coordinator"
	"berth/fleet/memfleet"
	"berth/fleet/seal"
	"berth/oci"
)

// scenario is one deployment: an image, and nodes that all pull it.
type scenario struct {
	Name   string
	Bucket string // the service's name; empty: there is no fleet
	Nodes  int
	Layers int
	Layer  int64 // bytes
	Seed   uint64
	Deaths int // of nodes that hold a lease
	Slow   int // nodes that begin first and have a line of 2 Mbit/s
	CutOff int // nodes of a second zone, which loses its bucket and coordinator after a while
	// Slower makes the coordinator slower by that factor: it is then as busy as it would be
	// with so many times more nodes. 0: 1.
	Slower  int
	service service
}

const (
	simSlowNIC  = 250e3
	simNIC      = 125e6  // 1 Gbit/s, each way
	simRegistry = 1.25e9 // 10 Gbit/s
	simStream   = 50e6   // what the registry sends over one connection
	startWithin = 2 * time.Second
	// cutAfter is when a zone is cut off, and deathsWithin when nodes die.
	cutAfter, deathsWithin = 2 * time.Second, 3 * time.Second
)

// zone is nodes with engines of their own.
type zone struct {
	v *valkey
	s *store
}

// world is a scenario that runs.
type world struct {
	scenario

	random   *rand.Rand
	registry *registry
	image    image
	scopes   []seal.Scope
	numbers  *prometheus.Registry
	metrics  *Metrics
	zones    [2]zone // the second is the one that is cut off
	nodes    []*simNode
}

func newZone(s service, slower int) zone {
	now := time.Now()
	return zone{
		v: &valkey{state: &memfleet.Coordinator{}, slower: max(slower, 1), trips: perSecond{began: now}, sent: perSecond{began: now}},
		s: newStore(s),
	}
}

func newWorld(t *testing.T, s scenario, sparse string) *world {
	t.Helper()
	w := &world{
		scenario: s, random: rand.New(rand.NewPCG(s.Seed, 16)), numbers: prometheus.NewRegistry(),
		registry: &registry{out: newLink(simRegistry), perConnection: simStream, latency: 50 * time.Millisecond},
		scopes:   []seal.Scope{seal.Public(seal.NewKey([seal.KeySize]byte{1}))},
		image:    image{manifests: [][]byte{bytes.Repeat([]byte("i"), 1000), bytes.Repeat([]byte("m"), 2000)}, sparse: sparse},
		zones:    [2]zone{newZone(s.service, s.Slower), newZone(s.service, s.Slower)},
	}
	for range s.Layers {
		w.image.layers = append(w.image.layers, s.Layer)
	}
	var err error
	if w.metrics, err = NewMetrics(w.numbers); err != nil {
		t.Fatal(err)
	}
	for i := range s.Nodes {
		z := w.zones[0]
		if i >= s.Nodes-s.CutOff {
			z = w.zones[1]
		}
		rate := float64(simNIC)
		if i < s.Slow {
			rate = simSlowNIC
		}
		n := w.add(t, fmt.Sprintf("node-%d", i), z, rate)
		n.slow = i < s.Slow
		w.nodes = append(w.nodes, n)
	}
	return w
}

func (w *world) add(t *testing.T, name string, z zone, rate float64) *simNode {
	t.Helper()
	n := &simNode{name: name, w: w, down: newLink(rate), up: newLink(rate)}
	n.ctx, n.die = context.WithCancel(t.Context())
	if w.Bucket == "" {
		return n
	}
	n.asked, n.bucket = newAsked(n, z.v), (&line{n, z.s}).bucket(t)
	n.tier = New(Options{Bucket: n.bucket, Coordinator: n.asked, Metrics: w.metrics, Public: func() []seal.Scope { return w.scopes }})
	n.tier.open = z.s.open
	n.tier.memory = func(size int64) ([]byte, func()) { return z.s.zeros[:size], func() {} } // nothing is read into it
	return n
}

// run has all nodes pull, each from a moment of its own on.
func (w *world) run() {
	began := time.Now()
	var pulls, others sync.WaitGroup
	for i, n := range w.nodes {
		wait := time.Duration(w.random.Int64N(int64(startWithin)))
		if i < w.Slow {
			wait = 0
		}
		pulls.Go(func() {
			if n.err = rest(n.ctx, wait); n.err == nil {
				n.err = n.pull(w.image)
			}
			n.ended = time.Now()
			n.took = n.ended.Sub(began) - wait
		})
	}
	for i := range w.Deaths { // the first as soon as anybody fetches: a small image is soon there
		when, layer := time.Duration(w.random.Int64N(int64(deathsWithin)))*time.Duration(min(i, 1)), w.random.IntN(w.Layers)
		others.Go(func() { w.killHolder(when, layer) })
	}
	if w.CutOff > 0 {
		others.Go(func() {
			time.Sleep(cutAfter)
			for _, n := range w.nodes[w.Nodes-w.CutOff:] {
				n.cut.Store(true)
			}
		})
	}
	pulls.Wait()
	others.Wait()
}

// killHolder kills whoever fetches that layer then, or the next one that anybody fetches.
func (w *world) killHolder(when time.Duration, layer int) {
	time.Sleep(when)
	watcher := w.zones[0].v.state.Node("watcher")
	for range 100 {
		for i := range w.Layers {
			o := coordinator.Object{Name: w.scopes[0].Name(simOrigin, oci.Blob, digestOfLayer((layer+i)%w.Layers))}
			found, err := watcher.Look(context.Background(), o)
			if err != nil || found.Holder.Node == "" {
				continue
			}
			for _, n := range w.nodes {
				if n.name == found.Holder.Node && !n.dead.Load() {
					time.Sleep(rand.N(time.Second)) // at some moment of its work
					n.kill()
					return
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// outcome is what came of a scenario. Times are in seconds.
type outcome struct {
	scenario

	Copies    float64 // of the image, from the registry
	CutCopies float64 `json:",omitempty"` // of the zone that was cut off, for each of its nodes
	Manifests int64   // counted GETs
	Failed    int     // pulls, but for those of nodes that died
	Killed    int
	P50, P99  float64 // of a pull, from its start
	Last      float64 // when the last node had it all
	Results   map[string]int
	Gets      int64   // from the bucket, in the busiest second
	Refused   int64   // GETs, since there were too many
	Read      float64 // what was read from the bucket, of what nodes needed of it
	Trips     int64   // to the coordinator, in the busiest second
	AllTrips  int64
	Sent      float64 // MB by the coordinator, in the busiest second
	Waited    float64 // the longest that an answer of the coordinator took
	Real      float64 // how long the simulation ran
}

func (w *world) outcome(t *testing.T, began time.Time) outcome {
	t.Helper()
	o := outcome{scenario: w.scenario, Manifests: w.registry.manifests.Load(), Results: map[string]int{}}
	var times []time.Duration
	var fetched, cut, got int64
	for i, n := range w.nodes {
		if i >= w.Nodes-w.CutOff {
			cut += n.fetched.Load()
		} else {
			fetched += n.fetched.Load()
		}
		switch {
		case n.dead.Load():
			o.Killed++
			continue
		case n.err != nil:
			t.Logf("%s: %v", n.name, n.err)
			o.Failed++
		}
		if i < w.Slow {
			continue
		}
		got += w.image.size() - n.fetched.Load()
		times = append(times, n.took)
		o.Last = max(o.Last, n.ended.Sub(began).Seconds())
	}
	slices.Sort(times)
	o.P50, o.P99 = times[len(times)/2].Seconds(), times[len(times)*99/100].Seconds()
	size := float64(w.image.size())
	o.Copies = float64(fetched) / size
	if w.CutOff > 0 {
		o.CutCopies = float64(cut) / size / float64(w.CutOff)
	}
	z := w.zones[0]
	o.Refused, o.Gets, o.Trips, o.AllTrips = z.s.refused, z.s.gets.peak(), z.v.trips.peak(), z.v.trips.all
	o.Sent, o.Waited = float64(z.v.sent.peak())/1e6, z.v.longest.Seconds()
	if got > 0 {
		o.Read = float64(z.s.read.Load()+w.zones[1].s.read.Load()) / float64(got)
	}
	w.count(t, o.Results)
	return o
}

// count takes down how downloads were got.
func (w *world) count(t *testing.T, results map[string]int) {
	t.Helper()
	families, err := w.numbers.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "berth_fleet_downloads_total" {
				results[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
			}
		}
	}
}

// simulate runs a scenario in virtual time.
func simulate(t *testing.T, s scenario) (o outcome) {
	t.Helper()
	for _, known := range services() {
		if known.name == s.Bucket && s.service.name == "" {
			s.service = known
		}
	}
	sparse := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, s.Layer); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := newWorld(t, s, sparse)
		w.run()
		synctest.Wait() // holders may still write, and count
		o = w.outcome(t, began)
		var closing sync.WaitGroup
		for _, n := range w.nodes {
			closing.Go(n.close)
		}
		closing.Wait()
	})
	o.Real = time.Since(started).Seconds()
	t.Logf("%s, %q, %d nodes, seed %d: %.3f copies, %d counted GETs, median %.1f s, last %.1f s, %d failed; %+v", s.Name, s.Bucket, s.Nodes, s.Seed, o.Copies, o.Manifests, o.P50, o.Last, o.Failed, o)
	return o
}
