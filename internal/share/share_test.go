package share

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

func TestLRU_LargestGivesWay(t *testing.T) {
	l := New[string, int](10, nil)
	for i := range 3 {
		l.Add("acme", fmt.Sprint("acme", i), i)
	}
	for i := range 1000 {
		l.Add("globex", fmt.Sprint("globex", i), i)
	}
	for i := range 3 {
		if _, ok := l.Get(fmt.Sprint("acme", i)); !ok {
			t.Errorf("acme's entry %d was pushed out by another's", i)
		}
	}
	if n := len(l.All()); n != 10 {
		t.Errorf("%d entries, of 10", n)
	}
	// What the largest loses is what it has not used for longest.
	if _, ok := l.Get("globex999"); !ok {
		t.Error("the newest went")
	}
}

// Sizes count, and not only numbers.
func TestLRU_Weight(t *testing.T) {
	l := New(100, func(_ string, n int64) int64 { return n })
	for i := range 20 {
		l.Add("acme", fmt.Sprint("small", i), 2)
	}
	l.Add("globex", "large", 50)
	l.Add("globex", "larger", 55)
	if _, ok := l.Get("large"); ok {
		t.Error("the largest owner kept both")
	}
	for i := range 20 {
		if _, ok := l.Get(fmt.Sprint("small", i)); !ok {
			t.Errorf("small%d had to go for it", i)
		}
	}
	l.Add("globex", "larger", 101)
	if _, ok := l.Get("larger"); ok {
		t.Error("what is larger than all there is was kept, or what it replaced")
	}
}

// Whatever is done to it, it holds what a slow and simple table holds.
func TestLRU_Model(t *testing.T) {
	type kept struct {
		owner string
		value int64
		used  int
	}
	rapid.Check(t, func(t *rapid.T) {
		const limit = 12
		l, model, clock := New(limit, func(_ int, v int64) int64 { return v }), map[int]kept{}, 0
		sums := func() map[string]int64 {
			by := map[string]int64{}
			for _, e := range model {
				by[e.owner] += e.value
			}
			return by
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				clock++
				owner, k := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "owner"), rapid.IntRange(0, 20).Draw(t, "key")
				v := rapid.Int64Range(1, limit+1).Draw(t, "value")
				l.Add(owner, k, v)
				delete(model, k)
				if v > limit {
					return
				}
				model[k] = kept{owner, v, clock}
				for {
					by, total := sums(), int64(0)
					for _, n := range by {
						total += n
					}
					if total <= limit {
						return
					}
					victim := owner
					for _, other := range []string{"a", "b", "c"} {
						if by[other] > by[victim] {
							victim = other
						}
					}
					oldest := -1
					for k, e := range model {
						if e.owner == victim && (oldest < 0 || e.used < model[oldest].used) {
							oldest = k
						}
					}
					delete(model, oldest)
				}
			},
			"get": func(t *rapid.T) {
				clock++
				k := rapid.IntRange(0, 20).Draw(t, "key")
				v, ok := l.Get(k)
				e, want := model[k]
				if ok != want || v != e.value {
					t.Fatalf("%d is %d, %v; want %d, %v", k, v, ok, e.value, want)
				}
				if ok {
					e.used = clock
					model[k] = e
				}
			},
			"remove": func(t *rapid.T) {
				k := rapid.IntRange(0, 20).Draw(t, "key")
				l.Remove(k)
				delete(model, k)
			},
			"remove odd": func(*rapid.T) {
				l.RemoveIf(func(k int, _ int64) bool { return k%2 == 1 })
				maps.DeleteFunc(model, func(k int, _ kept) bool { return k%2 == 1 })
			},
			"": func(t *rapid.T) {
				all, want := l.All(), map[int]int64{}
				for k, e := range model {
					want[k] = e.value
				}
				if !maps.Equal(all, want) {
					t.Fatalf("it holds %v, want %v", all, want)
				}
				if !maps.Equal(sums(), owned(l)) {
					t.Fatalf("owners have %v, want %v", owned(l), sums())
				}
			},
		})
	})
}

func owned(l *LRU[int, int64]) map[string]int64 {
	by := map[string]int64{}
	for owner, p := range l.owners {
		by[owner] = p.weight
	}
	return by
}
