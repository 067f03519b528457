package fleet

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// scenarios are those that doc/performance.md shows.
func scenarios(seed uint64) (all []scenario) {
	const layers, layer = 8, 128 << 20
	add := func(s scenario) {
		if s.Seed = seed; s.Layers == 0 {
			s.Layers, s.Layer = layers, layer
		}
		all = append(all, s)
	}
	for _, nodes := range []int{10, 100, 1000} {
		add(scenario{Name: "without a fleet", Nodes: nodes})
	}
	for _, s := range services() {
		for _, nodes := range []int{10, 100, 1000} {
			add(scenario{Name: "all at once", Bucket: s.name, Nodes: nodes})
		}
	}
	cloud := services()[0].name
	unlimited := services()[0]
	unlimited.name, unlimited.perPrefix = "cloud without a limit", 0
	add(scenario{Name: "96 MiB, all at once", Bucket: unlimited.name, service: unlimited, Nodes: 10_000, Layers: 3, Layer: 32 << 20})
	add(scenario{Name: "96 MiB, all at once", Bucket: cloud, Nodes: 10_000, Layers: 3, Layer: 32 << 20})
	fresh := services()[0] // S3 divides a bucket only when it has been busy for a while
	fresh.name, fresh.prefix = "cloud, one limit for all", len("v1/")
	add(scenario{Name: "96 MiB, all at once", Bucket: fresh.name, service: fresh, Nodes: 10_000, Layers: 3, Layer: 32 << 20})
	add(scenario{Name: "holders die", Bucket: cloud, Nodes: 1000, Deaths: 10})
	add(scenario{Name: "a slow holder", Bucket: cloud, Nodes: 1000, Slow: 1})
	add(scenario{Name: "a zone is cut off", Bucket: cloud, Nodes: 1000, CutOff: 100})
	return all
}

// The whole simulation is run by bench/fleet, which says where the outcomes go.
const simulationFile = "BERTH_FLEET_SIMULATION"

func simulationSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("BERTH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return seed
}

func digestOfLayer(i int) oci.Digest { return oci.DigestOf([]byte{byte(i)}) }

// small is a scenario that takes a moment.
func small(t *testing.T, name, bucket string, nodes int) scenario {
	t.Helper()
	return scenario{Name: name, Bucket: bucket, Nodes: nodes, Layers: 3, Layer: 32 << 20, Seed: simulationSeed(t)}
}

// one asserts that a scenario has brought one copy, and what no scenario may cost.
func one(t *testing.T, o outcome, copies float64) {
	t.Helper()
	if o.Failed > 0 || o.Copies > copies || o.Manifests != 2 {
		t.Errorf("%s, %s, %d nodes, BERTH_SEED=%d: %d pulls failed, %.3f copies, %d counted GETs", o.Name, o.Bucket, o.Nodes, o.Seed, o.Failed, o.Copies, o.Manifests)
	}
	if o.Read > 1.01+float64(o.Killed)/float64(o.Nodes) { // what the dead have read is no longer needed
		t.Errorf("%s, %s, %d nodes: the bucket has sent %.2f times what was needed of it", o.Name, o.Bucket, o.Nodes, o.Read)
	}
	// Three layers at once, each looked at four times a second, in two round trips.
	if most := int64(o.Nodes) * 3 * 2 * 6; o.Trips > most {
		t.Errorf("%s, %s, %d nodes: %d questions in one second, of %d", o.Name, o.Bucket, o.Nodes, o.Trips, most)
	}
}

// However slow the bucket, and however many read from it at once: one copy.
func TestSimulation_OneCopy(t *testing.T) {
	for _, s := range services() {
		for _, nodes := range []int{10, 100} {
			one(t, simulate(t, small(t, "all at once", s.name, nodes)), 1.05)
		}
	}
}

// A bucket with one limit for all that lies in it, which a hundred nodes reach as ten
// thousand do that of a large cloud: whoever is told to slow down comes again, and nobody
// goes to the registry.
func TestSimulation_BusyBucket(t *testing.T) {
	s := small(t, "busy bucket", "busy bucket", 100)
	s.service = services()[0]
	s.service.perPrefix, s.service.prefix = s.service.perPrefix/100, len("v1/")
	o := simulate(t, s)
	one(t, o, 1.05)
	if o.Refused < 1000 {
		t.Errorf("BERTH_SEED=%d: only %d reads were refused", o.Seed, o.Refused)
	}
}

// A part that takes long on its way into the bucket is worth waiting for, and nobody
// fetches it a second time meanwhile.
func TestSimulation_SlowWrites(t *testing.T) {
	s := small(t, "slow writes", "slow writes", 10)
	s.service = service{name: "slow writes", latency: 150 * time.Millisecond, perConnection: 2e6}
	s.Layer = 64 << 20
	one(t, simulate(t, s), 1.05)
}

// A hundred nodes ask a coordinator that answers as it would if they were thirty thousand.
func TestSimulation_BusyCoordinator(t *testing.T) {
	s := small(t, "busy coordinator", services()[0].name, 100)
	s.Slower = 300
	o := simulate(t, s)
	one(t, o, 1.05)
	if o.Waited > 0.6 {
		t.Errorf("BERTH_SEED=%d: an answer of the coordinator has taken %.2f s", o.Seed, o.Waited)
	}
}

// What a node that dies has fetched and not given to the others is fetched again, and
// no more.
func TestSimulation_HoldersDie(t *testing.T) {
	s := small(t, "holders die", services()[0].name, 100)
	s.Deaths = 3
	o := simulate(t, s)
	size := float64(int64(s.Layers) * s.Layer)
	one(t, o, 1.05+float64(o.Killed)*layersAtOnce*(32<<20)/size)
	if o.Killed == 0 {
		t.Errorf("BERTH_SEED=%d: nobody has died", o.Seed)
	}
}

// A node with a bad line takes the leases first. Nobody waits for it for long, and the
// others do not all go to the registry.
func TestSimulation_SlowHolder(t *testing.T) {
	s := small(t, "a slow holder", services()[0].name, 100)
	s.Slow = 1
	o := simulate(t, s)
	one(t, o, 2.05) // the slow one had asked the registry for all of it before the others had it
	if o.Last > 20 {
		t.Errorf("BERTH_SEED=%d: the last has waited %.1f s", o.Seed, o.Last)
	}
}

// A zone that loses its engines pulls as it would without a fleet, and the other notices
// nothing.
func TestSimulation_AZoneIsCutOff(t *testing.T) {
	s := small(t, "a zone is cut off", services()[0].name, 100)
	s.CutOff = 20
	o := simulate(t, s)
	if o.Failed > 0 || o.Copies > 1.05 || o.CutCopies > 1.05 {
		t.Errorf("BERTH_SEED=%d: %d pulls failed, %.3f copies, and %.3f for each node of the zone", o.Seed, o.Failed, o.Copies, o.CutCopies)
	}
}

func TestSimulation_Figures(t *testing.T) {
	to := os.Getenv(simulationFile)
	if to == "" {
		t.Skip("go run ./bench/fleet runs it")
	}
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, only := json.NewEncoder(f), os.Getenv("BERTH_FLEET_NODES")
	for _, s := range scenarios(simulationSeed(t)) {
		if only != "" && !slices.Contains(strings.Split(only, ","), strconv.Itoa(s.Nodes)) {
			continue
		}
		if err := lines.Encode(simulate(t, s)); err != nil {
			t.Fatal(err)
		}
	}
}
