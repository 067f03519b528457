package fleet_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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

// growing is a blob's file, of which the first bytes have come.
type growing struct {
	path string
	come atomic.Int64
}

func newGrowing(t *testing.T, size int64) *growing {
	t.Helper()
	g := &growing{path: filepath.Join(t.TempDir(), "blob")}
	if err := os.WriteFile(g.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(g.path, size); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *growing) Has(_, to int64) bool          { return to <= g.come.Load() }
func (g *growing) Verified() bool                { return false }
func (g *growing) OpenReader() (*os.File, error) { return os.Open(g.path) }
func (g *growing) read(o *fleet.Object, n int64) { o.Moved(g.come.Load(), int(n)); g.come.Add(n) }

// fetch takes what the registry sends, as fast as there is room, until ctx ends.
func (g *growing) fetch(ctx context.Context, t *testing.T, o *fleet.Object) {
	for g.come.Load() < o.Size() {
		step, err := o.Next(ctx, g.come.Load(), o.Size())
		if err != nil {
			return
		}
		if step.Data != nil {
			t.Error("there is something in the fleet")
			return
		}
		for g.come.Load() < step.Until {
			if o.Room(ctx) != nil {
				return
			}
			g.read(o, 1<<20)
		}
	}
}

// Whoever fetches for the others reads no further ahead of what lies in the bucket than
// what another node may fetch again after its death. The parts here take a second each,
// and the registry takes no time.
func TestHolder_ReadsLittleAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 256 << 20
		c, b := &memfleet.Coordinator{}, &memfleet.Bucket{}
		f := newGrowing(t, size)
		var written, most atomic.Int64
		b.Fault = func(ctx context.Context, op, key string) error {
			if op != "put" {
				return nil
			}
			time.Sleep(200 * time.Millisecond)
			most.Store(max(most.Load(), f.come.Load()-written.Load()))
			part := strings.TrimLeft(key[strings.LastIndex(key, "/"):], "/")
			if len(part) == 1 && part < "8" {
				written.Add(seal.SmallPart)
			} else {
				written.Add(seal.BigPart)
			}
			return nil
		}
		tier := fleet.New(fleet.Options{Bucket: b, Coordinator: c.Node("holder")})
		defer tier.Close()
		o := tier.Object("", holderScopes(), holderOrigin, oci.DigestOf([]byte("x")), size)
		o.Grows(f)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		f.fetch(ctx, t, o)
		o.Over()
		if n := most.Load(); n > 32<<20 || n < 16<<20 {
			t.Errorf("it was up to %d MiB ahead of the bucket", n>>20)
		}
	})
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
					f.fetch(t.Context(), t, o)
					if took := time.Since(begun); took > most+100*time.Millisecond || f.come.Load() != size {
						t.Errorf("download %d took %v, want %v; %d bytes", i, took, most, f.come.Load())
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
		if err != nil || step.Until != size {
			t.Fatalf("%+v, %v", step, err)
		}
		done := make(chan struct{})
		go func() { // bytes move, though no part is complete yet
			for at := int64(0); ; at += 1 << 10 {
				select {
				case <-time.After(time.Second):
					first.Moved(at, 1<<10)
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

// Where no part is complete, waiting would be in vain: four connections have begun a part
// each, and bring no other bytes until they are through.
func TestHolder_WaitsForNoPartThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 64 << 20
		tier := fleet.New(fleet.Options{Bucket: &memfleet.Bucket{}, Coordinator: (&memfleet.Coordinator{}).Node("holder")})
		defer tier.Close()
		o := tier.Object("", holderScopes(), holderOrigin, oci.DigestOf([]byte("x")), size)
		o.Grows(newGrowing(t, size))
		if step, err := o.Next(t.Context(), 0, size); err != nil || step.Until != size {
			t.Fatalf("%+v, %v", step, err)
		}
		begun := time.Now()
		for part := int64(1); part <= 4; part++ {
			o.Moved(part*seal.BigPart, 7<<20)
			if err := o.Room(t.Context()); err != nil || time.Since(begun) > 0 {
				t.Errorf("with %d parts begun: %v after %v", part, err, time.Since(begun))
			}
		}
		o.Over()
	})
}
