package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/memfleet"
	"berth/fleet/seal"
	"berth/oci"
)

// pace lets all that the registry sends together pass at so many bytes a second.
type pace struct {
	mu     sync.Mutex
	free   time.Time
	second float64
}

func (p *pace) pass(n int) {
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / p.second * float64(time.Second)))
	until := p.free
	p.mu.Unlock()
	time.Sleep(time.Until(until))
}

type pacedReader struct {
	p    *pace
	gone func() bool
	rest []byte
}

func (r *pacedReader) Read(b []byte) (int, error) {
	if r.gone() {
		return 0, io.ErrUnexpectedEOF
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 64<<10)], r.rest)
	r.p.pass(n)
	r.rest = r.rest[n:]
	return n, nil
}

// slow makes the registry send so many bytes a second in all.
func (w *crowd) slow(second float64) {
	p := &pace{second: second}
	w.set(func() {
		w.body = func(c call, data []byte) io.Reader {
			if w.dead == c.who && w.dead != "" {
				return iotest.ErrReader(io.ErrUnexpectedEOF)
			}
			if c.kind != oci.Blob {
				return bytes.NewReader(data)
			}
			return &pacedReader{p, func() (gone bool) {
				w.set(func() { gone = w.dead != "" && w.dead == c.who })
				return gone
			}, data}
		}
	})
}

// pullAll pulls on all nodes at once and says how long the last took.
func (w *crowd) pullAll(repo string, manifest oci.Object, blobs []oci.Object) (errs []error, took time.Duration) {
	begin := time.Now()
	errs = make([]error, len(w.nodes))
	var pulls sync.WaitGroup
	for i, n := range w.nodes {
		pulls.Go(func() { errs[i] = pullImage(w.t.Context(), n.as("", ""), repo, manifest, blobs) })
	}
	pulls.Wait()
	return errs, time.Since(begin)
}

// The registry sends a part in eight seconds: nobody else goes there.
func TestFleet_SlowRegistryIsNotStampeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 10)
		const size = 40 * mib
		blobs, manifest := w.image("library/app", random(1, size))
		w.slow(1e6)
		errs, took := w.pullAll("library/app", manifest, blobs)
		wantAll(t, errs)
		if sent := w.bytesSent(); sent > size {
			t.Errorf("%d bytes came from the registry, of %d", sent, size)
		}
		if least := time.Duration(size) * time.Second / 1e6; took > least+15*time.Second {
			t.Errorf("it took %v, and cannot take less than %v", took, least)
		}
	})
}

// The holder dies at any byte: nobody's pull fails, what was in the bucket stays, and the
// next goes on.
func TestFleet_HolderDies(t *testing.T) {
	seed, kills := rand.Uint64(), 3
	if os.Getenv("BERTH_LONG") != "" {
		kills = 20
	}
	t.Logf("seed %d", seed)
	random64 := rand.New(rand.NewPCG(seed, 8))
	for range kills {
		synctest.Test(t, func(t *testing.T) {
			w := newCrowd(t, 5)
			const size = 64 * mib
			blobs, manifest := w.image("library/app", random(1, size))
			w.slow(20e6)
			at := random64.Int64N(size)
			dies, die := context.WithCancel(t.Context())
			first := w.nodes[0]
			died := make(chan struct{})
			go func() {
				defer close(died)
				_ = pullImage(dies, first.as("", ""), "library/app", manifest, blobs)
			}()
			for w.bytesSent() == 0 {
				time.Sleep(time.Millisecond)
			}
			w.nodes = w.nodes[1:]
			go func() {
				for w.bytesSent() < at {
					time.Sleep(time.Millisecond)
				}
				first.at.Kill()
				w.set(func() { w.dead = first.name })
				die()
			}()
			errs, took := w.pullAll("library/app", manifest, blobs)
			wantAll(t, errs)
			<-died
			limit := time.Duration(size)*time.Second/20e6 + time.Duration(32*mib)*time.Second/20e6 + 4500*time.Millisecond
			if sent := w.bytesSent(); sent > size+32*mib || took > limit {
				t.Errorf("killed after %d bytes: %d came from the registry, of %d; it took %v", at, sent, size, took)
			}
		})
	}
}

// hang is what engines do that are away: the first caller waits, nobody after that.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Engines that fail cost a pull a moment, and no pull fails.
func TestFleet_EnginesInTrouble(t *testing.T) {
	down := errors.New("away")
	for _, c := range []struct {
		what        string
		bucket      func(ctx context.Context, op, key string) error
		coordinator func(ctx context.Context, op string) error
		body        func(key string, b []byte) []byte
		flush       bool
	}{
		{what: "bucket away", bucket: func(context.Context, string, string) error { return down }},
		{what: "bucket full", bucket: func(_ context.Context, op, _ string) error {
			if op == "put" {
				return errors.New("507")
			}
			return nil
		}},
		{what: "bucket slow", bucket: func(ctx context.Context, _, _ string) error {
			ctx, cancel := context.WithTimeout(ctx, 4*time.Second) // it gives up by itself
			defer cancel()
			return hang(ctx)
		}},
		{what: "bucket forgets", body: nil, bucket: func(_ context.Context, op, _ string) error {
			if op == "get" {
				return bucket.ErrNotFound
			}
			return nil
		}},
		{what: "bucket gives wrong bytes", body: func(_ string, b []byte) []byte { c := append([]byte(nil), b...); c[len(c)/2] ^= 1; return c }},
		{what: "bucket cuts", body: func(_ string, b []byte) []byte { return b[:len(b)/2] }},
		{what: "coordinator away", coordinator: func(context.Context, string) error { return down }},
		{what: "coordinator slow", coordinator: func(ctx context.Context, _ string) error { return hang(ctx) }},
		{what: "coordinator is read only", coordinator: func(_ context.Context, op string) error {
			if op != "look" {
				return down
			}
			return nil
		}},
		{what: "coordinator flushed", flush: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCrowd(t, 4)
				const size = 30 * mib
				blobs, manifest := w.image("library/app", random(1, size))
				w.slow(20e6)
				w.bucket.Set(func(b *memfleet.Bucket) { b.Fault, b.Body = c.bucket, c.body })
				w.coordinator.Fail(c.coordinator)
				if c.flush {
					go func() {
						for range 20 {
							time.Sleep(200 * time.Millisecond)
							w.coordinator.Flush()
						}
					}()
				}
				errs, took := w.pullAll("library/app", manifest, blobs)
				wantAll(t, errs)
				// As without a fleet: everybody at the registry, and what the engines cost.
				if limit := 4*time.Duration(size)*time.Second/20e6 + 20*time.Second; took > limit {
					t.Errorf("it took %v", took)
				}
				t.Logf("%v, %d copies in 100", took, 100*w.bytesSent()/size)
			})
		})
	}
}

// With stream: verified a client sees nothing of a lie: its first try gets the image.
func TestFleet_VerifiedStreamsAreNotCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCrowd(t, 0)
		w.verified = true
		right := random(1, 12*mib)
		blobs, manifest := w.image("library/app", right)
		r := rogue{w, w.coordinator.Node("rogue"), seal.Public(key("everyone"))}
		r.announce(blobs[0], random(2, len(right)), coordinator.Done)
		n := w.add("node")
		if err := pullImage(t.Context(), n.as("", ""), "library/app", manifest, blobs); err != nil {
			t.Error(err)
		}
		// A part of a blob waits for all of it, too.
		late := w.add("late")
		if err := check(t.Context(), late.as("", ""), manifest); err != nil {
			t.Fatal(err)
		}
		part, err := get(t.Context(), late.as("", ""), blobs[0], oci.Range{Start: 5 * mib, Length: 100})
		if err != nil || !bytes.Equal(part, right[5*mib:5*mib+100]) {
			t.Errorf("%d bytes, %v", len(part), err)
		}
		if w.sealedUp(); n.faults("rogue") == 0 {
			t.Error("the rogue was not read")
		}
	})
}

// rogue is a node with valid rights to both engines, and the key of what is public.
type rogue struct {
	*crowd

	at    *memfleet.Node
	scope seal.Scope
}

// A hostile node costs time. Nobody gets a wrong byte, every pull ends, and the node is
// named.
func TestFleet_HostileNode(t *testing.T) {
	const size = 12 * mib
	right := random(1, size)
	wrong := random(2, size)
	for what, attack := range map[string]func(r rogue, o oci.Object){
		"squats": func(r rogue, o oci.Object) {
			for range 600 {
				_, _, _ = r.at.Take(r.t.Context(), r.object(o), seal.Writing{1})
				_, _ = r.at.Renew(r.t.Context(), r.object(o), seal.Writing{1})
				time.Sleep(100 * time.Millisecond)
			}
		},
		"squats in turns": func(r rogue, o oci.Object) {
			for i := range 600 {
				_, _, _ = r.at.Take(r.t.Context(), r.object(o), seal.Writing{byte(i), byte(i >> 8), 1})
				time.Sleep(100 * time.Millisecond)
				_ = r.at.Release(r.t.Context(), r.object(o), seal.Writing{byte(i), byte(i >> 8), 1})
			}
		},
		"squats under many names": func(r rogue, o oci.Object) {
			for i := range 600 {
				at := r.coordinator.Node("rogue")
				if i%2 == 1 { // whoever writes a lease may write any name there
					at = r.coordinator.Node(fmt.Sprint("rogue-", i))
				}
				for turn := range 3 {
					l := r.object(o)
					l.Turn = turn
					_, _, _ = at.Take(r.t.Context(), l, seal.Writing{byte(i), byte(i >> 8), byte(turn), 1})
					_, _ = at.Renew(r.t.Context(), l, seal.Writing{byte(i), byte(i >> 8), byte(turn), 1})
				}
				time.Sleep(100 * time.Millisecond)
			}
		},
		"announces what is not there": func(r rogue, o oci.Object) { r.announce(o, nil, coordinator.Done) },
		"writes garbage":              func(r rogue, o oci.Object) { r.announce(o, wrong, coordinator.Done) },
		"writes what is not sealed":   func(r rogue, o oci.Object) { r.write(o, func(int, []byte) []byte { return []byte("garbage") }) },
		"cuts parts": func(r rogue, o oci.Object) {
			r.write(o, func(_ int, b []byte) []byte { return b[:len(b)-1] })
		},
		"swaps parts": func(r rogue, o oci.Object) {
			var last []byte
			r.write(o, func(_ int, b []byte) []byte { b, last = last, b; return append([]byte{1}, b...) })
		},
		"one bad byte at the end": func(r rogue, o oci.Object) {
			b := append([]byte(nil), right...)
			b[len(b)-1] ^= 1
			r.announce(o, b, coordinator.Done)
		},
		"one bad byte, and fetching": func(r rogue, o oci.Object) {
			b := append([]byte(nil), right...)
			b[len(b)/2] ^= 1
			_, _, _ = r.at.Take(r.t.Context(), r.object(o), seal.Writing{9})
			r.announce(o, b, coordinator.Writing)
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCrowd(t, 3)
				blobs, manifest := w.image("library/app", right)
				r := rogue{w, w.coordinator.Node("rogue"), seal.Public(key("everyone"))}
				var attacks sync.WaitGroup
				attacks.Go(func() { attack(r, blobs[0]) })
				time.Sleep(10 * time.Millisecond)
				begin := time.Now()
				for _, n := range w.nodes {
					// A client that is cut off tries again.
					err := pullImage(t.Context(), n.as("", ""), "library/app", manifest, blobs)
					for try := 0; err != nil && try < 2; try++ {
						t.Logf("%s: %v", n.name, err)
						err = pullImage(t.Context(), n.as("", ""), "library/app", manifest, blobs)
					}
					if err != nil {
						t.Errorf("%s: %v", n.name, err)
					}
				}
				if took := time.Since(begin); took > time.Minute {
					t.Errorf("it took %v", took)
				}
				attacks.Wait()
				synctest.Wait() // whoever finds out who it was
				named := 0.0
				for _, n := range w.nodes {
					named += n.faults("rogue")
				}
				if forgets := what == "announces what is not there"; (named > 0) == forgets { // which a bucket that forgets looks like
					t.Errorf("the rogue is named %v times in the metrics", named)
				}
			})
		})
	}
}

func (r rogue) object(o oci.Object) coordinator.Object {
	return coordinator.Object{Name: r.scope.Name(r.id.Dir(), o.Kind, o.Digest)}
}

// announce writes data as the object, in good form.
func (r rogue) announce(o oci.Object, data []byte, state coordinator.State) {
	r.put(o, data, state, func(_ int, b []byte) []byte { return b })
}

// write writes the object's own bytes, each part as change makes it.
func (r rogue) write(o oci.Object, change func(part int, sealed []byte) []byte) {
	r.put(o, r.objects[o], coordinator.Done, change)
}

func (r rogue) put(o oci.Object, data []byte, state coordinator.State, change func(part int, sealed []byte) []byte) {
	size, name := int64(len(r.objects[o])), r.object(o).Name
	record := coordinator.Record{State: state, Writing: seal.Writing{9}, Size: size}
	for part := range seal.Parts(size) {
		sealed := []byte("nothing")
		if data != nil {
			from, to := seal.Range(part, size)
			sealed = change(part, r.scope.Seal(nil, record.Writing, name, part, size, data[from:to]))
			if err := r.bucket.Put(r.t.Context(), seal.ObjectKey(name, record.Writing, part), sealed); err != nil {
				r.t.Error(err)
			}
		}
		record.Parts = append(record.Parts, sha256.Sum256(sealed))
	}
	if err := r.at.Publish(r.t.Context(), r.object(o), record); err != nil {
		r.t.Error(err)
	}
}
