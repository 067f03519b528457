package hold

import (
	"errors"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := New[string](2, func() time.Time { return now })
	why := errors.New("it was refused")
	h.For("a", time.Minute, why)
	if left, got, held := h.Held("a"); left != time.Minute || got != why || !held {
		t.Errorf("%v, %v, %v", left, got, held)
	}
	now = now.Add(time.Minute)
	if left, got, held := h.Held("a"); left != 0 || got != nil || held {
		t.Errorf("when it is over: %v, %v, %v", left, got, held)
	}
	h.For("a", time.Minute, nil)
	h.For("b", time.Minute, nil)
	h.For("c", time.Minute, nil)
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
