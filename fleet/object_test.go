package fleet_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"berth/fleet"
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
		o := tier.Object([]seal.Scope{seal.Public(seal.NewKey([seal.KeySize]byte{1, 2}))}, "registry.example", oci.DigestOf([]byte("x")), 1<<20)
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
