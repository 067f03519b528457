package fleet

import (
	"testing"

	"berth/fleet/seal"
)

// No two parts are in one piece of memory, also where one was given back twice.
func TestPartMemory_IsOnePartsAtATime(t *testing.T) {
	var m partMemory
	for _, size := range []int64{1, seal.SmallPart + seal.Overhead, seal.BigPart + seal.Overhead} {
		first, release := m.get(size)
		release()
		release()
		second, keep := m.get(size)
		third, _ := m.get(size)
		if int64(len(first)) != size || int64(len(second)) != size || &second[0] == &third[0] {
			t.Errorf("%d bytes: %d and %d, twice the same: %v", size, len(first), len(second), &second[0] == &third[0])
		}
		keep()
	}
}
