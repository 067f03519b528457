package gate

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var errDown = errors.New("down")

// Nothing runs while nobody asks; whoever asks never waits; the pauses grow.
func TestGate_ProbesOnlyWhereSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int32
		var back atomic.Bool
		g := New("bucket", nil, func(context.Context) error {
			if probes.Add(1); back.Load() {
				return nil
			}
			return errDown
		})
		defer g.Close()
		if err := g.Enter(); err != nil {
			t.Fatal(err)
		}
		g.Failed(errDown)
		time.Sleep(time.Hour)
		if n := probes.Load(); n != 0 {
			t.Fatalf("%d probes while nobody asked", n)
		}
		for range 10 * 60 {
			if err := g.Enter(); !errors.Is(err, ErrAway) || !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := probes.Load(); n < 10 || n > 30 {
			t.Errorf("%d probes in ten minutes", n)
		}
		back.Store(true)
		for begun := time.Now(); g.Enter() != nil; time.Sleep(time.Second) {
			if time.Since(begun) > lastPause+2*time.Second {
				t.Fatal("not found back")
			}
		}
	})
}

// An engine that answers its probes and fails at its work is not asked more and more.
func TestGate_PauseStaysUntilWorkSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New("bucket", nil, func(context.Context) error { return nil })
		defer g.Close()
		worked := 0
		for range 10 * 60 {
			if g.Enter() == nil {
				worked++
				g.Failed(errDown)
			}
			time.Sleep(time.Second)
		}
		if worked > 20 {
			t.Errorf("%d pulls were let through to fail in ten minutes", worked)
		}
		for g.Enter() != nil {
			time.Sleep(time.Second)
		}
		g.Worked()
		g.Failed(errDown)
		time.Sleep(firstPause)
		_ = g.Enter() // begins the probe
		synctest.Wait()
		if err := g.Enter(); err != nil {
			t.Errorf("after work succeeded the pause begins anew: %v", err)
		}
	})
}

func TestGate_CloseEndsAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New("bucket", nil, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Failed(errDown)
		time.Sleep(firstPause)
		_ = g.Enter() // begins the probe
		begun := time.Now()
		g.Close()
		if took := time.Since(begun); took != 0 {
			t.Errorf("closing took %v", took)
		}
		time.Sleep(lastPause)
		_ = g.Enter() // must begin none: the test would not end
	})
}

func TestMetrics_AnEngineIsUpIfAllItsGatesAre(t *testing.T) {
	r := prometheus.NewRegistry()
	m, err := NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	reads, writes := New("bucket", m, nil), New("bucket", m, nil)
	coordinator := New("coordinator", m, nil)
	show := func(bucket, coordinator, errors string) {
		t.Helper()
		want := "# HELP berth_fleet_errors_total Failures of the fleet's engine (bucket, coordinator). Pulls went on without it.\n# TYPE berth_fleet_errors_total counter\n" +
			"berth_fleet_errors_total{engine=\"bucket\"} " + errors + "\nberth_fleet_errors_total{engine=\"coordinator\"} 0\n" +
			"# HELP berth_fleet_up Whether the fleet's engine (bucket, coordinator) is asked: 0 from a failure on until a probe succeeds.\n# TYPE berth_fleet_up gauge\n" +
			"berth_fleet_up{engine=\"bucket\"} " + bucket + "\nberth_fleet_up{engine=\"coordinator\"} " + coordinator + "\n"
		if err := testutil.GatherAndCompare(r, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
	show("1", "1", "0")
	writes.Failed(errDown)
	show("0", "1", "1")
	for _, g := range []*Gate{reads, writes, coordinator} {
		g.Close()
	}
	if n, err := testutil.GatherAndCount(r, "berth_fleet_up"); n != 0 || err != nil {
		t.Errorf("%d closed gates are shown, %v", n, err)
	}
}
