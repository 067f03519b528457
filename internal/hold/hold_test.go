package hold

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := New[string](2, func() time.Time { return now })
	why := errors.New("it was refused")
	h.For("acme", "a", time.Minute, why)
	if left, got, held := h.Held("a"); left != time.Minute || got != why || !held {
		t.Errorf("%v, %v, %v", left, got, held)
	}
	now = now.Add(time.Minute)
	if left, got, held := h.Held("a"); left != 0 || got != nil || held {
		t.Errorf("when it is over: %v, %v, %v", left, got, held)
	}
	h.For("acme", "a", time.Minute, nil)
	h.For("acme", "b", time.Minute, nil)
	h.For("acme", "c", time.Minute, nil)
	if _, _, held := h.Held("a"); held {
		t.Error("a third hold had room beside two")
	}
	h.ReleaseIf(func(k string) bool { return k == "b" })
	h.Release("c")
	for _, k := range []string{"b", "c"} {
		if _, _, held := h.Held(k); held {
			t.Errorf("%s is held still", k)
		}
	}
}

// Whoever is told no about name after name does not make the node ask again about
// what others were told.
func TestTable_OthersHoldsStay(t *testing.T) {
	h := New[string](100, nil)
	h.For("acme", "acme's", time.Hour, nil)
	for i := range 1000 {
		h.For("globex", fmt.Sprint(i), time.Hour, nil)
	}
	if _, _, held := h.Held("acme's"); !held {
		t.Error("another's holds have ended acme's")
	}
}
