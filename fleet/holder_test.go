package fleet_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/fleet"
	"berth/fleet/coordinator"
	"berth/fleet/memfleet"
	"berth/fleet/seal"
	"berth/oci"
)

const holderOrigin = "https/registry.example"

func holderScopes() []seal.Scope {
	return []seal.Scope{seal.Public(seal.NewKey([seal.KeySize]byte{1, 2}))}
}

// growing is a blob's file, as a download of a few workers fills it.
type growing struct {
	path string
	size int64

	mu     sync.Mutex
	next   int64           // where nobody fetches yet
	come   map[int64]bool  // by MiB
	asked  map[int64]int64 // up to where, by where from
	looked func()          // if not nil: called when something was asked for
}

func newGrowing(t *testing.T, size int64) *growing {
	t.Helper()
	g := &growing{path: filepath.Join(t.TempDir(), "blob"), size: size, come: map[int64]bool{}, asked: map[int64]int64{}}
	if err := os.WriteFile(g.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(g.path, size); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *growing) Has(from, to int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for ; from < to; from += 1 << 20 {
		if !g.come[from>>20] {
			return false
		}
	}
	return true
}

func (g *growing) Verified() bool                { return false }
func (g *growing) OpenReader() (*os.File, error) { return os.Open(g.path) }

// claim is the next run for a worker, as package download makes them.
func (g *growing) claim(piece int64) (from, to int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from = g.next
	g.next = min(from+max(piece, 4<<20), g.size)
	return from, g.next
}

// fetch takes what the registry sends over some connections, with a MiB each time that
// every has passed, until ctx ends.
func (g *growing) fetch(ctx context.Context, t *testing.T, o *fleet.Object, workers int, every time.Duration) {
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				at, end := g.claim(o.Piece())
				for at < end {
					step, err := o.Next(ctx, at, end)
					if err != nil {
						return
					}
					if step.Data != nil {
						t.Error("there is something in the fleet")
						return
					}
					g.mu.Lock()
					g.asked[at] = step.Until
					g.mu.Unlock()
					if g.looked != nil {
						g.looked()
					}
					for ; at < step.Until; at += 1 << 20 {
						if time.Sleep(every); ctx.Err() != nil {
							return
						}
						o.Moved(1 << 20)
						g.mu.Lock()
						g.come[at>>20] = true
						g.mu.Unlock()
					}
				}
				if at == g.size {
					return
				}
			}
		})
	}
	all.Wait()
}

// Whoever fetches for the others asks for no more beyond what they have than what another
// node may ask for again after its death: whatever lies in connections then.
func TestHolder_AsksLittleAhead(t *testing.T) {
	for name, c := range map[string]struct {
		workers   int
		put, each time.Duration // a part takes, and a MiB on one connection
	}{
		"one worker, slow bucket":     {1, 200 * time.Millisecond, 0},
		"four workers, slow bucket":   {4, 200 * time.Millisecond, 0},
		"four workers, as fast":       {4, 60 * time.Millisecond, 30 * time.Millisecond},
		"four workers, fast bucket":   {4, 0, 30 * time.Millisecond},
		"five workers, slow registry": {5, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 256 << 20
				coord, b := &memfleet.Coordinator{}, &memfleet.Bucket{}
				b.Fault = func(_ context.Context, op, _ string) error {
					if op == "put" {
						time.Sleep(c.put)
					}
					return nil
				}
				f, digest := newGrowing(t, size), oci.DigestOf([]byte("x"))
				name := coordinator.Object{Name: holderScopes()[0].Name(holderOrigin, oci.Blob, digest)}
				var most int64
				f.looked = func() {
					found, err := coord.Node("other").Look(t.Context(), name)
					if err != nil {
						t.Error(err)
					}
					f.mu.Lock()
					defer f.mu.Unlock()
					ahead := int64(0)
					for from, to := range f.asked {
						ahead += to - from
					}
					for _, w := range found.Writers {
						for part, hash := range w.Parts {
							if hash != (coordinator.Hash{}) {
								from, to := seal.Range(part, size)
								ahead -= to - from
							}
						}
					}
					most = max(most, ahead)
				}
				// Waiting is bounded by the patience, which is not what this is about.
				tier := fleet.New(fleet.Options{Bucket: b, Coordinator: coord.Node("holder"), Patience: time.Hour})
				defer tier.Close()
				o := tier.Object("", holderScopes(), holderOrigin, digest, size)
				o.Grows(f)
				begun := time.Now()
				f.fetch(t.Context(), t, o, c.workers, c.each)
				t.Logf("at most %d MiB ahead; %v", most>>20, time.Since(begun))
				o.Over()
				if most > 32<<20 || most < 16<<20 {
					t.Errorf("it has asked for %d MiB more than the others had", most>>20)
				}
			})
		})
	}
}

// A bucket that takes next to nothing, or takes it slowly, holds downloads up for the
// patience, once.
func TestHolder_IsNotHeldUpByASlowBucket(t *testing.T) {
	for name, takes := range map[string]time.Duration{"hangs": time.Hour, "slow": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 512 << 20
				b := &memfleet.Bucket{Fault: func(ctx context.Context, op, _ string) error {
					if op == "put" {
						select {
						case <-time.After(takes):
						case <-ctx.Done():
						}
					}
					return ctx.Err()
				}}
				tier := fleet.New(fleet.Options{Bucket: b, Coordinator: (&memfleet.Coordinator{}).Node("holder")})
				defer tier.Close()
				for i, most := range []time.Duration{4 * time.Second, 0} {
					f, begun := newGrowing(t, size), time.Now()
					o := tier.Object("", holderScopes(), holderOrigin, oci.DigestOf([]byte{byte(i)}), size)
					o.Grows(f)
					f.fetch(t.Context(), t, o, 1, 0)
					if took := time.Since(begun); took > most+100*time.Millisecond || !f.Has(0, size) {
						t.Errorf("download %d took %v, want %v; all is there: %t", i, took, most, f.Has(0, size))
					}
					o.Over()
				}
			})
		})
	}
}

// A holder is quiet for so long that its lease is passed by, and dies. Who sees its lease
// run out then follows whoever has passed it by, instead of fetching everything too.
func TestHolder_HasOneSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 48 << 20
		c, b, digest := &memfleet.Coordinator{}, &memfleet.Bucket{}, oci.DigestOf([]byte("x"))
		name := coordinator.Object{Name: holderScopes()[0].Name(holderOrigin, oci.Blob, digest)}
		quiet := c.Node("quiet")
		w := seal.NewWriting()
		if _, ok, err := quiet.Take(t.Context(), name, w); !ok || err != nil {
			t.Fatal(ok, err)
		}
		go func() {
			for range 5 { // until after it is passed by
				time.Sleep(time.Second)
				_, _ = quiet.Renew(t.Context(), name, w)
			}
		}()
		object := func(node string) *fleet.Object {
			tier := fleet.New(fleet.Options{Bucket: b, Coordinator: c.Node(node)})
			t.Cleanup(tier.Close)
			o := tier.Object("", holderScopes(), holderOrigin, digest, size)
			o.Grows(newGrowing(t, size))
			return o
		}
		first := object("first")
		step, err := first.Next(t.Context(), 0, size)
		if err != nil || step.Until == 0 {
			t.Fatalf("%+v, %v", step, err)
		}
		done := make(chan struct{})
		go func() { // bytes move, though no part is complete yet
			for {
				select {
				case <-time.After(time.Second):
					first.Moved(1 << 10)
				case <-done:
					return
				}
			}
		}()
		time.Sleep(4 * time.Second) // the lease of the quiet one has run out
		for _, late := range []string{"second", "third"} {
			o := object(late)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if step, err := o.Next(ctx, 0, size); err == nil {
				t.Errorf("%s goes to the registry up to %d, where the first one is", late, step.Until)
			}
			cancel()
			o.Over()
		}
		close(done)
		first.Over()
	})
}

// Where no part is complete, waiting would be in vain: connections that have begun a part
// each bring no other bytes until they are through.
func TestHolder_WaitsForNoPartThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 128 << 20
		tier := fleet.New(fleet.Options{Bucket: &memfleet.Bucket{}, Coordinator: (&memfleet.Coordinator{}).Node("holder")})
		defer tier.Close()
		o := tier.Object("", holderScopes(), holderOrigin, oci.DigestOf([]byte("x")), size)
		o.Grows(newGrowing(t, size))
		begun := time.Now()
		for part := range int64(12) {
			at := (part + 1) * seal.BigPart
			if step, err := o.Next(t.Context(), at, size); err != nil || step.Until < at+4<<20 || time.Since(begun) > 0 {
				t.Errorf("with %d parts begun: %+v, %v after %v", part, step, err, time.Since(begun))
			}
		}
		o.Over()
	})
}

// What was asked for and does not come is no longer waited for.
func TestHolder_AsksAgainForWhatWasMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 256 << 20
		b := &memfleet.Bucket{Fault: func(_ context.Context, op, _ string) error {
			if op == "put" {
				time.Sleep(time.Hour)
			}
			return nil
		}}
		tier := fleet.New(fleet.Options{Bucket: b, Coordinator: (&memfleet.Coordinator{}).Node("holder")})
		defer tier.Close()
		f := newGrowing(t, size)
		f.come[0] = true // a part is on its way into the bucket all the time
		o := tier.Object("", holderScopes(), holderOrigin, oci.DigestOf([]byte("x")), size)
		o.Grows(f)
		begun := time.Now()
		for n := range int64(100) {
			step, err := o.Next(t.Context(), 0, size)
			if err != nil || time.Since(begun) > 0 {
				t.Fatalf("%d: %+v, %v after %v", n, step, err, time.Since(begun))
			}
			o.Missed(n%3<<20, step.Until)
			o.Missed(0, n%3<<20)
		}
		o.Over()
	})
}
