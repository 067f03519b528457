package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/internal/ocitest/engines"
)

// hubAddress is where the registry is in a lan.
const hubAddress = "10.77.2.1:5000"

// pullInLAN lets n nodes pull one cold image at the same moment, each with a link of its
// own, and says how long each took, and how often a client had to ask again. Without
// engines there is no fleet.
func pullInLAN(l *lan, n int, image ocitest.Pushed, c *crew) (took []time.Duration, failed int32) {
	l.t.Helper()
	var nodes []*running
	var clients []*client
	for i := range n {
		h := newHome(l.t)
		h.endpoint("docker.io", "http://"+hubAddress, "allow_private: [10.77.0.0/16]")
		if c != nil {
			h.fleet(c, nodeName(i))
		}
		h.transport.DialContext = l.dialer(nodeName(i))
		l.in(nodeName(i), func() { nodes = append(nodes, h.build()) })
		clients = append(clients, h.client(nodes[i].doors[openDoor]))
		if a := clients[i].get("/v2/"); a.status != http.StatusOK {
			l.t.Fatal(a)
		}
	}
	took = make([]time.Duration, n)
	var pulls sync.WaitGroup
	var failures atomic.Int32
	begin := time.Now()
	for i, c := range clients {
		pulls.Go(func() {
			err := c.drain("app", image.Tag)
			for try := 0; err != nil && try < 4; try++ { // as container engines do
				failures.Add(1)
				l.t.Logf("%s: %v", nodeName(i), err)
				err = c.drain("app", image.Tag)
			}
			if err != nil {
				l.t.Errorf("%s: %v", nodeName(i), err)
			}
			took[i] = time.Since(begin)
		})
	}
	pulls.Wait()
	for _, n := range nodes {
		n.stop()
	}
	slices.Sort(took)
	return took, failures.Load()
}

// Thirty nodes pull one image at once, each over a link of 100 Mbit/s, from a registry
// that sends 100 MB/s in all and answers after 20 ms: the registry sends it once, Docker
// Hub counts one pull, nobody is much later than the others, and all have it in less than
// half the time that it takes without a fleet.
func TestFleet_ThirtyNodes(t *testing.T) {
	if os.Getenv("BERTH_LONG") == "" {
		t.Skip("in the long run")
	}
	if !alone(t) {
		return
	}
	const n, link, registry = 30, 100_000_000 / 8, 100_000_000
	l := newLAN(t)
	l.add("hub", strings.TrimSuffix(hubAddress, ":5000"), registry)
	for i := range n {
		l.add(nodeName(i), fmt.Sprintf("10.77.1.%d", i+1), link)
	}
	hub := ocitest.New(t, ocitest.Options{Fault: func(ocitest.Request) ocitest.Fault {
		time.Sleep(20 * time.Millisecond)
		return ocitest.Fault{}
	}})
	l.lead("hub", hubAddress, strings.TrimPrefix(hub.URL(), "http://"))
	layers := []int64{32 << 20, 16 << 20, 12 << 20, 4 << 20}
	image := hub.AddImage("library/app", "1", ocitest.Image{Index: true, Layers: layers, Seed: 1})
	c := &crew{t: t, s3: engines.StartS3At(t, lanHost), redis: engines.StartRedisAt(t, lanHost, nodeUsers(n)...)}
	with, failed := pullInLAN(l, n, image, c)
	sent, size := int64(0), int64(0)
	for _, d := range image.Blobs(0) {
		sent += hub.BlobBytes(d)
		size += int64(len(hub.Bytes("library/app", d)))
	}
	gets := hub.Count(ocitest.Match{Kind: ocitest.Manifest, Method: "GET"})
	without, failedWithout := pullInLAN(l, n, image, nil)
	copies, median, last := float64(sent)/float64(size), with[n/2], with[n-1]
	t.Logf("with a fleet: %.3f copies, %d counted GETs; first %v, median %v, last %v", copies, gets, with[0], median, last)
	t.Logf("without: first %v, median %v, last %v; %d failed at first", without[0], without[n/2], without[n-1], failedWithout)
	if failed > 0 {
		t.Errorf("%d pulls failed", failed)
	}
	if copies > 1.01 || gets != 2 {
		t.Errorf("%.3f copies and %d counted GETs, want 1.01 and 2", copies, gets)
	}
	if last > median*125/100 {
		t.Errorf("the last node took %v, the median %v", last, median)
	}
	if last > without[n-1]/2 {
		t.Errorf("the last node took %v, without a fleet %v", last, without[n-1])
	}
}

// What comes from the fleet takes 0.8 s of CPU for each GB more than what comes from the
// registry, at most, and no node takes more than 64 MiB of memory, as one that is alone.
func TestFleet_CPU(t *testing.T) {
	if os.Getenv("BERTH_LONG") == "" {
		t.Skip("in the long run")
	}
	const size = 256 << 20
	hub := ocitest.New(t, ocitest.Options{})
	spent, peak := map[string][]float64{}, map[string][]int64{}
	for round := range 3 {
		image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{size, size, size}, Seed: uint64(round)})
		c := newCrew(t, 2, hub, nil)
		alone := newHome(t)
		alone.registry("docker.io", hub)
		for i, what := range []string{"alone", "first of a fleet", "from the fleet"} {
			h := alone
			if i > 0 {
				h = c.homes[i-1]
			}
			n := h.build()
			warmMemory(t, 4*size)
			before := n.cpu()
			if err := h.client(n.doors[openDoor]).drain("app", image.Tag); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				c.complete(4)
			}
			used := (n.cpu() - before).Seconds() / (3 * size / 1e9)
			spent[what] = append(spent[what], used)
			peak[what] = append(peak[what], n.peakMemory())
			t.Logf("%s: %.2f s/GB, %d MiB at most", what, used, peak[what][round]>>20)
			n.stop()
		}
	}
	for what, all := range spent {
		slices.Sort(all)
		slices.Sort(peak[what])
		t.Logf("%s: %.2f s/GB, %d bytes", what, all, peak[what])
		if peak[what][1] > 64<<20 {
			t.Errorf("%s it takes %d MiB", what, peak[what][1]>>20)
		}
	}
	if more := spent["from the fleet"][1] - spent["alone"][1]; more > 0.8 {
		t.Errorf("from the fleet it takes %.2f s/GB more than from the registry", more)
	}
}

// cpu is what the process has used so far.
func (n *running) cpu() time.Duration {
	n.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')'):])) // the first is the bracket
	var ticks int
	for _, field := range f[12:14] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			panic(err) // the kernel writes numbers there
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// warmMemory has the kernel give memory next that was written to a moment ago. On a virtual
// machine other memory costs whoever gets it more CPU than what is measured here, which is
// whoever comes later.
func warmMemory(t *testing.T, n int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "warm"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for piece := make([]byte, 1<<20); n > 0; n -= int64(len(piece)) {
		if _, err := f.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
}
