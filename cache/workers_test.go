package cache_test

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/oci"
)

// slowly is a connection that brings so many bytes a second, in fake time, and
// counts how many there are at once.
type slowly struct {
	perSecond int64

	mu      sync.Mutex
	at, max int
}

func (s *slowly) body(_ call, b []byte) io.Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at++
	s.max = max(s.max, s.at)
	return &slowReader{s: s, r: bytes.NewReader(b)}
}

// connections is how many there are, and how many there were at once.
func (s *slowly) connections() (now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.max
}

type slowReader struct {
	s *slowly
	r io.Reader
}

func (r *slowReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	time.Sleep(time.Duration(int64(n) * int64(time.Second) / r.s.perSecond))
	return n, err
}

func (r *slowReader) Close() error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.at--
	return nil
}

// coldIn is how long, in fake time, n clients take for a cold blob, and what
// they cost upstream.
func coldIn(t *testing.T, o cache.Options, size int, perSecond int64, n int) (took time.Duration, copies float64, connections int) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
		o.Dir = ocitest.MemoryDir(t)
		c, err := cache.New(o)
		if err != nil {
			t.Fatal(err)
		}
		h.cache = c
		link := &slowly{perSecond: perSecond}
		h.body = link.body
		obj := h.addBlob("acme/app", random(1, size))
		begun := time.Now()
		wantAll(t, readers(t, h.source("acme", "a"), obj, n)())
		took = time.Since(begun)
		copies = float64(h.bytesSent()) / float64(size)
		connections = link.max
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return took, copies, connections
}

// A large blob over slow connections takes several of them, and one copy.
func TestSeveralWorkers(t *testing.T) {
	for name, c := range map[string]struct {
		size, clients int
		perSecond     int64
		atMost        float64 // of what one connection takes
	}{
		"one client":     {128 * mib, 1, 16e6, 0.35},
		"twenty clients": {64 * mib, 20, 60e6, 0.6},
	} {
		t.Run(name, func(t *testing.T) {
			took, copies, connections := coldIn(t, cache.Options{}, c.size, c.perSecond, c.clients)
			direct := time.Duration(int64(c.size) * int64(time.Second) / c.perSecond)
			t.Logf("%v, direct %v (%.2f), %d connections, %.3f copies", took, direct, float64(took)/float64(direct), connections, copies)
			if float64(took) > c.atMost*float64(direct) {
				t.Errorf("it took %.2f of the direct time, want at most %.2f", float64(took)/float64(direct), c.atMost)
			}
			if copies != 1 {
				t.Errorf("%v copies from upstream", copies)
			}
			if connections > 4 {
				t.Errorf("%d connections", connections)
			}
		})
	}
}

// One worker where only one connection is allowed, or the blob is not large.
func TestOneWorker(t *testing.T) {
	for name, c := range map[string]struct {
		o    cache.Options
		size int
	}{
		"parallel: 1": {cache.Options{Parallel: 1}, 40 * mib},
		"a small one": {cache.Options{}, 31 * mib},
		"no more":     {cache.Options{Connections: 1}, 40 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			if _, copies, connections := coldIn(t, c.o, c.size, 16e6, 2); connections != 1 || copies != 1 {
				t.Errorf("%d connections, %v copies", connections, copies)
			}
		})
	}
}

// A reader that waits far ahead does not wait for a run that is under way: neither
// for that of the first worker, nor, where there are as many workers as may be, for
// that of any. Then there is one more, for a moment.
func TestFarReaderIsHurried(t *testing.T) {
	for name, c := range map[string]struct {
		after          time.Duration
		before, during int // connections
	}{
		"one worker":  {0, 1, 4},
		"all at work": {time.Second, 4, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { farReader(t, c.after, c.before, c.during) })
		})
	}
}

func farReader(t *testing.T, after time.Duration, before, during int) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	c, err := cache.New(cache.Options{Dir: ocitest.MemoryDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	h.cache = c
	link := &slowly{perSecond: 16e6}
	h.body = link.body
	data := random(2, 256*mib)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	whole, err := s.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(after) // in fake time
	sent, begun := h.bytesSent(), time.Now()
	if now, _ := link.connections(); now != before {
		t.Errorf("%d connections before, want %d", now, before)
	}
	got, err := get(t.Context(), s, obj, oci.Range{Start: -1000})
	if err != nil || !bytes.Equal(got, data[len(data)-1000:]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(begun); took > 100*time.Millisecond {
		t.Errorf("the end came after %v and %d of %d bytes", took, h.bytesSent()-sent, len(data))
	}
	if _, most := link.connections(); most != during {
		t.Errorf("%d connections at once, want %d", most, during)
	}
	time.Sleep(2 * time.Second)
	if now, _ := link.connections(); now > 4 {
		t.Errorf("%d connections afterwards", now)
	}
	if err := whole.Body.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// Clients that come while workers are hired and leave: all get the blob, and
// nobody waits for a lock that another holds.
func TestClientsComeWhileWorkersAreHired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
		c, err := cache.New(cache.Options{Dir: ocitest.MemoryDir(t)})
		if err != nil {
			t.Fatal(err)
		}
		h.cache = c
		h.body = (&slowly{perSecond: 60e6}).body
		obj := h.addBlob("acme/app", random(3, 40*mib))
		s := h.source("acme", "a")
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond) // in fake time
				if err := check(t.Context(), s, obj); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if h.bytesSent() != 40*mib {
			t.Errorf("%d bytes from upstream", h.bytesSent())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
