package limit

import "testing"

// What was taken for a request is given back when the last who holds it has let go: whoever
// reads for it may outlast it.
func TestSharedSlot_UntilTheLastHasLetGo(t *testing.T) {
	p := &Pool{Total: 100, Most: 100}
	take := func(n int64) Slot {
		s, waits, err := p.enqueue(Want{Organisation: "acme", N: n})
		if waits != nil || err != nil {
			t.Fatal(waits, err)
		}
		return s
	}
	wants := func(what string, n int64) {
		t.Helper()
		if p.used != n {
			t.Errorf("%s: %d are used, want %d", what, p.used, n)
		}
	}
	var l SharedSlot
	if _, ok := l.Keep(); ok {
		t.Error("nothing is kept")
	}
	l.Release()
	l.Take(take(40))
	reads, ok := l.Keep()
	l.Shrink(4)
	wants("shrunk while somebody reads", 40)
	l.Release()
	wants("the request is over", 4)
	reads()
	reads()
	wants("and so is the reading", 0)
	if _, again := l.Keep(); !ok || again {
		t.Error("kept after the end")
	}
	l.Take(take(40))
	l.Shrink(4)
	wants("shrunk alone", 4)
	l.Release()
	wants("the end", 0)
	l.Take(take(40))
	reads, _ = l.Keep()
	l.Release()
	l.Take(take(10))
	wants("taken again while somebody reads", 50)
	l.Release()
	reads()
	wants("both are over", 0)
}
