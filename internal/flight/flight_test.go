package flight

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Everyone who asks while a call runs gets its result, also when whoever started it
// has left.
func TestGroup_OneCallForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New[string, int](0)
		defer g.Close()
		var calls atomic.Int32
		gate := make(chan struct{})
		call := func(context.Context) (int, error) {
			calls.Add(1)
			<-gate
			return 7, nil
		}
		gone, leave := context.WithCancelCause(t.Context())
		why := errors.New("the client left")
		first := make(chan error, 1)
		go func() {
			_, err := g.Do(gone, "a", call)
			first <- err
		}()
		synctest.Wait()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if v, err := g.Do(t.Context(), "a", call); v != 7 || err != nil {
					t.Errorf("%d, %v", v, err)
				}
			})
		}
		synctest.Wait()
		leave(why)
		if err := <-first; !errors.Is(err, why) {
			t.Errorf("whoever left got %v", err)
		}
		close(gate)
		all.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
		if v, err := g.Do(t.Context(), "a", call); v != 7 || err != nil || calls.Load() != 2 {
			t.Errorf("afterwards: %d, %v, %d calls", v, err, calls.Load())
		}
	})
}

// A call ends at its limit, whatever its waiters want.
func TestGroup_Limit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New[string, int](time.Second)
		defer g.Close()
		begun := time.Now()
		_, err := g.Do(t.Context(), "a", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// Who comes after Forget starts anew; who waited gets the old answer. Close ends
// both, and takes no more.
func TestGroup_ForgetAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New[string, int](0)
		until := func(v int) func(context.Context) (int, error) {
			return func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return v, nil
			}
		}
		old, _ := g.Start("a", until(1))
		g.Forget(func(k string) bool { return k == "a" })
		fresh, started := g.Start("a", until(2))
		if !started || fresh == old {
			t.Error("the forgotten call was joined")
		}
		g.Close()
		for c, want := range map[*Call[int]]int{old: 1, fresh: 2} {
			if v, err := c.Wait(t.Context()); v != want || err != nil {
				t.Errorf("%d, %v, want %d", v, err, want)
			}
		}
		if _, err := g.Do(t.Context(), "a", until(3)); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestFlight_DoneDoesNotWait(t *testing.T) {
	g := New[string, int](0)
	end := make(chan struct{})
	call, _ := g.Start("a", func(context.Context) (int, error) { <-end; return 7, nil })
	if v, err, over := call.Done(); v != 0 || err != nil || over {
		t.Errorf("while it runs: %d, %v, %v", v, err, over)
	}
	close(end)
	if _, err := call.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v, err, over := call.Done(); v != 7 || err != nil || !over {
		t.Errorf("at its end: %d, %v, %v", v, err, over)
	}
	why := errors.New("no")
	if _, err, over := Failed[int](why).Done(); err != why || !over {
		t.Errorf("failed: %v, %v", err, over)
	}
	g.Close()
}
