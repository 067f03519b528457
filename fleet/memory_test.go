package fleet

import (
	"testing"
	"testing/synctest"
	"time"

	"berth/fleet/seal"
)

const smallSealed, bigSealed = seal.SmallPart + seal.Overhead, seal.BigPart + seal.Overhead

// No two parts are in one piece of memory, also where one was given back twice.
func TestPartMemory_IsOnePartsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m partMemory
		for _, size := range []int64{1, smallSealed, bigSealed} {
			first, release := m.get(size)
			release(true)
			release(true)
			second, keep := m.get(size)
			third, _ := m.get(size)
			if int64(len(first)) != size || int64(len(second)) != size || &second[0] == &third[0] {
				t.Errorf("%d bytes: %d and %d, twice the same: %v", size, len(first), len(second), &second[0] == &third[0])
			}
			if &first[0] != &second[0] {
				t.Errorf("%d bytes are not used again", size)
			}
			keep(true)
		}
	})
}

// There are no more pieces than parts that were in use at once, whatever their sizes are,
// and what might still be read from is not used again.
func TestPartMemory_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m partMemory
		for n, size := range []int64{smallSealed, bigSealed, smallSealed, bigSealed} {
			var releases []func(bool)
			for range 3 {
				_, release := m.get(size)
				releases = append(releases, release)
			}
			for _, release := range releases {
				release(true)
			}
			if len(m.free) != 3 {
				t.Errorf("there are %d pieces, of which 3 were in use", len(m.free))
			}
			for _, piece := range m.free {
				if n > 0 && len(piece) != bigSealed {
					t.Errorf("a piece of %d bytes was large before", len(piece))
				}
			}
		}
		_, release := m.get(bigSealed)
		release(false)
		if len(m.free) != 2 {
			t.Errorf("there are %d pieces, of which one may still be read from", len(m.free))
		}
	})
}

// What nobody uses for a second is left to the garbage, and what somebody uses is not.
func TestPartMemory_IsNotKeptIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m partMemory
		_, first := m.get(bigSealed)
		_, second := m.get(bigSealed)
		first(true)
		time.Sleep(idleFor + time.Millisecond)
		synctest.Wait()
		if len(m.free) != 1 {
			t.Error("it was dropped while a part was in use")
		}
		for range 3 {
			second(true)
			time.Sleep(idleFor - time.Millisecond)
			_, second = m.get(bigSealed)
		}
		if len(m.free) != 1 {
			t.Errorf("in use again and again: %d", len(m.free))
		}
		second(true)
		time.Sleep(idleFor + time.Millisecond)
		synctest.Wait()
		if len(m.free) != 0 {
			t.Error("it is kept")
		}
	})
}
