package isolation_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/oci"
)

// mischief is what the villain does beside all that is asked for by turns: it floods,
// hangs, lists, reads slowly, sends what nobody asked for, and leaves.
type mischief struct {
	m        *model
	c        *client
	theirs   []*repository // private repositories of others that it never may read
	large    oci.Digest    // of its own registry, larger than its share
	manifest oci.Digest    // of the largest kind

	cancel context.CancelFunc // nil: it does nothing now
	all    sync.WaitGroup
	sent   [6]atomic.Int64 // by kind
}

// shareOut gives the node its limits. The villain has the usual ones; nobody else asks as
// often as one test does.
func (h *harbour) shareOut() {
	usual, often := limit.Rate{PerSecond: 20, Burst: 500}, limit.Rate{PerSecond: 10_000, Burst: 10_000}
	h.hosts, h.limiter = &limit.Hosts{Rate: usual}, &limit.Pool{Most: 256}
	h.memory = &limit.Pool{Total: 256 << 20, Most: 64 << 20, Wait: 15 * time.Second, Queue: 1000}
	rates := map[string]limit.Rate{}
	for _, name := range h.names {
		if name != villain {
			rates[name] = often
		}
	}
	h.hosts.SetRates(rates)
	// Four organisations ask here in a second what services ask in a minute. What Docker Hub
	// takes from one address is as many times as much, or the others would wait for what
	// they have used themselves: how a minute is divided is tested in package limit.
	hub := strings.TrimPrefix(h.places[0].url, "http://")
	h.hosts.Use("", hub, 20*1500)
	fills := &limit.Pool{Most: 16, Wait: 15 * time.Second, Queue: 1000}
	h.cache.Admit = func(ctx context.Context, organisation string) (func(), error) {
		slot, err := fills.Take(ctx, limit.Want{Organisation: organisation})
		return slot.Release, err
	}
}

func newMischief(m *model) *mischief {
	e := &mischief{m: m, c: m.as(villain)}
	for _, r := range m.repos {
		if r.canary != "" && strings.HasSuffix(r.name, "/own") && !strings.HasPrefix(r.name, villain) {
			e.theirs = append(e.theirs, r)
		}
	}
	e.large = m.hostile.reg.AddNoise("loot/large", 9, 8<<20)
	m.hostile.reg.Inject(ocitest.Match{Kind: ocitest.Blob, Digest: e.large}, 0, ocitest.Fault{Chunked: true, IgnoreRange: true})
	pad := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + string(oci.DigestOf(nil)) + `","size":0},"layers":[],"annotations":{"p":"` + strings.Repeat("x", 3<<20) + `"}}`
	e.manifest = m.hostile.reg.AddManifest("loot/large", "", "application/vnd.oci.image.manifest.v1+json", []byte(pad))
	for _, p := range m.places[:3] {
		p.reg.AddBlob(villainHangs, []byte("nobody gets this"))
	}
	return e
}

// begin has it done until end.
func (e *mischief) begin() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.m.t.Context()))
	e.cancel = cancel
	for i, workers := range []int{12, 24, 4, 8, 4, 4} {
		for worker := range workers {
			e.all.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					e.once(ctx, i, fmt.Sprint(worker, "-", n))
					e.sent[i].Add(1)
					pause(ctx, 50*time.Millisecond)
				}
			})
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// end says whether anything was under way. A nil mischief never does anything.
func (e *mischief) end() bool {
	if !e.under() {
		return false
	}
	e.cancel()
	e.all.Wait()
	e.cancel = nil
	return true
}

// under says whether it is under way.
func (e *mischief) under() bool { return e != nil && e.cancel != nil }

// As TestNothingCrosses, where one organisation floods, hangs, lists, pushes sizes, reads
// slowly, leaves and is limited beside what is asked for by turns. In every second round it
// does so at another node, which costs this machine as much: the others get the same, in
// about the same time.
func TestNothingCrosses_BesideATenantWhoMeansHarm(t *testing.T) {
	t.Parallel()
	n, seed := requests(t, 2500)
	node := func() *model {
		h := newHarbour(t, seed)
		h.shareOut()
		m := newModel(h)
		m.start()
		m.evil = newMischief(m)
		return m
	}
	m, elsewhere := node(), node()
	m.elsewhere = elsewhere
	rounds := 2 + n/5000
	for range rounds {
		for _, at := range []*model{elsewhere, m} {
			at.evil.begin()
			m.ask(t, n/(2*rounds), func() []string { return nil })
			at.evil.end()
		}
	}
	m.limited.Store(false)
	m.waits.compare(t)
	for kind := range m.evil.sent {
		t.Logf("the villain did %d: %d times here, %d elsewhere", kind, m.evil.sent[kind].Load(), elsewhere.evil.sent[kind].Load())
	}
}

func (e *mischief) once(ctx context.Context, kind int, name string) {
	places := e.m.places[:3]
	at := places[len(name)%3].name
	own := "/v2/" + at + "/" + villain + "/own"
	switch kind {
	case 0: // names that it invents, of its own and of others
		theirs := e.theirs[len(name)%len(e.theirs)]
		for _, path := range []string{own + "/manifests/no" + name, own + "/manifests/" + string(oci.DigestOf([]byte(name))), fmt.Sprintf("/v2/%s/manifests/no%s", theirs, name), "/v2/" + at + "/" + villain + "/no" + name + "/manifests/1"} {
			e.looked(e.c.within(ctx, http.MethodHead, path))
		}
	case 1: // what gets no answer
		e.looked(e.c.within(ctx, http.MethodGet, "/v2/"+at+"/"+villainHangs+"/manifests/"+name))
	case 2:
		e.looked(e.c.within(ctx, http.MethodGet, own+"/tags/list?n=1"))
		e.looked(e.c.within(ctx, http.MethodGet, own+"/referrers/"+string(oci.DigestOf([]byte(name)))))
	case 3: // what is larger than its share, read slowly
		e.sits(ctx, "/v2/"+e.m.hostile.name+"/loot/large/blobs/"+string(e.large))
	case 4:
		e.sits(ctx, "/v2/"+e.m.hostile.name+"/loot/large/manifests/"+string(e.manifest))
	default: // clients who leave
		ctx, cancel := context.WithTimeout(ctx, 3*time.Millisecond)
		defer cancel()
		e.looked(e.c.within(ctx, http.MethodGet, own+"/manifests/no"+name))
	}
}

// looked wants nothing of others in an answer.
func (e *mischief) looked(a answer) {
	for _, r := range e.theirs {
		if bytes.Contains(a.everything(), []byte(r.canary)) {
			e.m.t.Errorf("bytes of %s: %s", r, a)
		}
	}
}

// sits asks for something and reads next to nothing of it, for a while.
func (e *mischief) sits(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.m.world.base+path, http.NoBody)
	if err != nil {
		return
	}
	req.SetBasicAuth(e.c.user, e.c.password)
	resp, err := e.c.http.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	_, _ = io.ReadFull(resp.Body, make([]byte, 100)) // as much as comes
	<-ctx.Done()
}

// waits are how long others waited for what they got, where the registry was well.
type waits struct{ alone, beside []time.Duration }

func (w *waits) note(beside bool, took time.Duration) {
	if beside {
		w.beside = append(w.beside, took)
		return
	}
	w.alone = append(w.alone, took)
}

// compare says what they waited, and in a long run what is too much.
func (w *waits) compare(t *testing.T) {
	t.Helper()
	slices.Sort(w.alone)
	slices.Sort(w.beside)
	if len(w.alone) < 50 || len(w.beside) < 50 {
		t.Errorf("only %d and %d requests were measured", len(w.alone), len(w.beside))
		return
	}
	at := func(all []time.Duration, share float64) time.Duration { return all[int(share*float64(len(all)-1))] }
	for _, share := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		t.Logf("%5.1f %% of what others got took %v without the villain, %v beside it", 100*share, at(w.alone, share), at(w.beside, share))
	}
	if a, b := at(w.alone, 0.99), at(w.beside, 0.99); os.Getenv("BERTH_LONG") != "" && float64(b) > 1.5*float64(a) {
		t.Errorf("the 99th percentile is %v beside the villain, and %v without it", b, a)
	}
}
