package download

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// The first bytes are written at once, others together, and none waits for what does
// not come.
func TestGatherer_WaitsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		full := errors.New("full")
		var fails error
		const pos = copyBuffer + 100
		g := newGatherer(make([]byte, copyBuffer), pos, func(p []byte) error {
			sizes = append(sizes, len(p))
			return fails
		})
		took := func(n int, last bool, want ...int) {
			t.Helper()
			if err := g.took(n, last); err != nil {
				t.Fatal(err)
			}
			g.mu.Lock() // under which it writes
			defer g.mu.Unlock()
			if !slices.Equal(sizes, want) {
				t.Fatalf("writes of %v, want %v", sizes, want)
			}
		}
		took(10, false, 10)
		took(20, false, 10)
		took(30, false, 10)
		time.Sleep(gatherFor - 1)
		took(1, false, 10)
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		took(0, false, 10, 51)
		took(copyBuffer-100-61, false, 10, 51, copyBuffer-161) // to the end of a piece
		if len(g.room()) != copyBuffer {
			t.Errorf("room for %d", len(g.room()))
		}
		took(7, true, 10, 51, copyBuffer-161, 7)
		took(5, false, 10, 51, copyBuffer-161, 7)
		g.mu.Lock()
		fails = full
		g.mu.Unlock()
		time.Sleep(2 * gatherFor)
		synctest.Wait()
		if err := g.took(1, false); !errors.Is(err, full) {
			t.Errorf("after a write that failed: %v", err)
		}
	})
}
