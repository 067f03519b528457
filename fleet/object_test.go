package fleet_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
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

// While one worker of a download waits for a coordinator that hangs, another one whose
// client has left does not wait with it.
func TestObject_WhoeverLeavesWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &memfleet.Coordinator{}
		c.Fail(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
		tier := fleet.New(fleet.Options{Bucket: &memfleet.Bucket{}, Coordinator: c.Node("node-0"), Patience: time.Minute})
		defer tier.Close()
		o := tier.Object("", []seal.Scope{seal.Public(seal.NewKey([seal.KeySize]byte{1, 2}))}, "registry.example", oci.DigestOf([]byte("x")), 1<<20)
		first := make(chan error, 1)
		go func() {
			_, err := o.Next(t.Context(), 0, 1<<20)
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := o.Next(ctx, 0, 1<<20); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := <-first; err != nil || time.Since(begin) > time.Minute {
			t.Errorf("the one that waited: %v after %v", err, time.Since(begin))
		}
		o.Over()
	})
}

// shared puts n small blobs into the fleet, and gives an object of each as another node has it.
func shared(t *testing.T, tier *fleet.Tier, c *memfleet.Coordinator, b *memfleet.Bucket, n int) (objects []*fleet.Object) {
	t.Helper()
	scope := holderScopes()[0]
	for i := range n {
		data := fmt.Append(nil, "blob ", i)
		d, size, w := oci.DigestOf(data), int64(len(data)), seal.NewWriting()
		name := scope.Name(holderOrigin, oci.Blob, d)
		sealed := scope.Seal(nil, w, name, 0, size, data)
		record := coordinator.Record{State: coordinator.Done, Writing: w, Size: size, Parts: []coordinator.Hash{sha256.Sum256(sealed)}}
		if err := errors.Join(b.Put(t.Context(), seal.ObjectKey(name, w, 0), sealed), c.Node("writer").Publish(t.Context(), coordinator.Object{Name: name}, record)); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, tier.Object("", []seal.Scope{scope}, holderOrigin, d, size))
	}
	return objects
}

// However many downloads there are, a node reads a few parts at a time, and has them in
// memory: each takes 8 MiB.
func TestObject_ReadsAFewPartsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := &memfleet.Coordinator{}, &memfleet.Bucket{}
		tier := fleet.New(fleet.Options{Bucket: b, Coordinator: c.Node("reader")})
		defer tier.Close()
		var held, most atomic.Int32
		var all sync.WaitGroup
		for i, o := range shared(t, tier, c, b, 12) {
			all.Go(func() {
				defer o.Over()
				step, err := o.Next(t.Context(), 0, o.Size())
				if err != nil || string(step.Data) != fmt.Sprint("blob ", i) {
					t.Errorf("%q, %v", step.Data, err)
					return
				}
				most.Store(max(most.Load(), held.Add(1)))
				time.Sleep(time.Millisecond)
				held.Add(-1)
				step.Release()
			})
		}
		all.Wait()
		if n := most.Load(); n < 2 || n > 4 {
			t.Errorf("%d parts were in memory at a time", n)
		}
	})
}

// Whoever has parts in hand and waits, for a registry to say whether they may be had, keeps
// nobody else from reading.
func TestObject_WhoeverWaitsWithAPartHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := &memfleet.Coordinator{}, &memfleet.Bucket{}
		tier := fleet.New(fleet.Options{Bucket: b, Coordinator: c.Node("reader")})
		defer tier.Close()
		for i, o := range shared(t, tier, c, b, 12) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			step, err := o.Next(ctx, 0, o.Size())
			cancel()
			if err != nil {
				t.Fatalf("blob %d: %v", i, err)
			}
			step.Yield()
			defer o.Over()
			defer step.Release()
		}
	})
}

// Nobody waits for whoever writes into a bucket that nothing can be read from: that would
// cost the patience for each lease, and for each object.
func TestObject_DoesNotWaitForABucketThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := &memfleet.Coordinator{}, &memfleet.Bucket{}
		var away atomic.Bool
		b.Fault = func(ctx context.Context, op, _ string) error {
			if op != "try" || away.Swap(true) {
				return memfleet.ErrAway
			}
			time.Sleep(2 * time.Second) // it finds out
			return memfleet.ErrAway
		}
		scopes := []seal.Scope{seal.Public(seal.NewKey([seal.KeySize]byte{1, 2}))}
		tier := fleet.New(fleet.Options{Bucket: b, Coordinator: c.Node("reader")})
		defer tier.Close()
		for n, most := range []time.Duration{2 * time.Second, 0, 0} {
			digest := oci.DigestOf(fmt.Append(nil, n))
			held := coordinator.Object{Name: scopes[0].Name("registry.example", oci.Blob, digest)}
			if _, ok, err := c.Node("holder").Take(t.Context(), held, seal.NewWriting()); !ok || err != nil {
				t.Fatal(ok, err)
			}
			o := tier.Object("", scopes, "registry.example", digest, 1<<20)
			begun := time.Now()
			step, err := o.Next(t.Context(), 0, 1<<20)
			if err != nil || step.Data != nil || step.Until != 1<<20 || time.Since(begun) > most {
				t.Errorf("object %d: %v, up to %d, after %v, want the registry after %v", n, err, step.Until, time.Since(begun), most)
			}
			o.Over()
		}
	})
}

// full is a bucket that takes nothing.
type full struct{ *memfleet.Bucket }

func (full) Writable() error                           { return memfleet.ErrAway }
func (full) Put(context.Context, string, []byte) error { return memfleet.ErrAway }

// Whoever can write nothing into the bucket takes no lease, for which others would wait, and
// goes to the registry at once. What others have written it reads, and waits for.
func TestObject_TakesNoLeaseThatItCannotUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, digest := &memfleet.Coordinator{}, &memfleet.Bucket{}, oci.DigestOf([]byte("x"))
		tier := fleet.New(fleet.Options{Bucket: full{b}, Coordinator: c.Node("reader")})
		defer tier.Close()
		name := coordinator.Object{Name: holderScopes()[0].Name(holderOrigin, oci.Blob, digest)}
		const size = 4 << 20
		o, begun := tier.Object("", holderScopes(), holderOrigin, digest, size), time.Now()
		step, err := o.Next(t.Context(), 0, size)
		found, looked := c.Node("other").Look(t.Context(), name)
		if err != nil || looked != nil || step.Until != size || time.Since(begun) > 0 || found.Holder.Node != "" {
			t.Errorf("%+v, %v after %v; %+v, %v", step, err, time.Since(begun), found.Holder, looked)
		}
		o.Over()
		if _, ok, err := c.Node("holder").Take(t.Context(), name, seal.NewWriting()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		o = tier.Object("", holderScopes(), holderOrigin, digest, size)
		if step, err := o.Next(ctx, 0, size); err == nil {
			t.Errorf("it waits for no holder: %+v", step)
		}
		o.Over()
		for i, o := range shared(t, tier, c, b, 2) {
			step, err := o.Next(t.Context(), 0, o.Size())
			if err != nil || string(step.Data) != fmt.Sprint("blob ", i) {
				t.Fatalf("%+v, %v", step, err)
			}
			step.Release()
			o.Over()
		}
	})
}
