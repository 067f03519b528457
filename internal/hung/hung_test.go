package hung

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func (t *Table) named() string {
	var names []string
	for _, o := range t.List() {
		names = append(names, o.What)
	}
	return strings.Join(names, " ")
}

// count is how many things have a result.
func count[T any](results []Result[T]) (n int) {
	for _, r := range results {
		if r.OK {
			n++
		}
	}
	return n
}

// What hangs is left behind, the rest goes on, and it is not tried again until it has
// returned.
func TestTable_GoesOnWithoutWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Table{}
		back := make(chan struct{})
		tried := map[string]int{}
		each := func() []Result[string] {
			return Each(all, Limit, []string{"a", "b", "c", "d"}, func(what string) string {
				if what == "b" || what == "d" {
					<-back
				} else {
					tried[what]++
					time.Sleep(Limit - 1) // each may take its time
				}
				return "the " + what
			})
		}
		begin := time.Now()
		withoutBD := []Result[string]{{"the a", true}, {}, {"the c", true}, {}}
		if got := each(); !slices.Equal(got, withoutBD) || all.named() != "b d" {
			t.Errorf("%v; hanging: %s", got, all.named())
		}
		if took := time.Since(begin); took > 6*Limit {
			t.Errorf("it took %v", took)
		}
		begin = time.Now()
		if got := each(); !slices.Equal(got, withoutBD) || time.Since(begin) > 2*Limit || tried["c"] != 2 {
			t.Errorf("again: %v after %v, %v", got, time.Since(begin), tried)
		}
		_, err := Do(all, Limit, "b", func() (int, error) { t.Error("it is tried while it hangs"); return 0, nil })
		if e, ok := errors.AsType[*Error](err); !ok || e.What != "b" || !strings.Contains(err.Error(), "b does not answer for ") {
			t.Error(err)
		}
		close(back)
		synctest.Wait()
		if all.named() != "" {
			t.Errorf("when it has returned: %s", all.named())
		}
		if got := each(); !slices.Equal(got, []Result[string]{{"the a", true}, {"the b", true}, {"the c", true}, {"the d", true}}) {
			t.Errorf("when it has returned: %v", got)
		}
	})
}

// However much hangs, few threads are lost to it.
func TestTable_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Table{}
		back := make(chan struct{})
		var whats []string
		for i := range 10 * most {
			whats = append(whats, fmt.Sprint(i))
		}
		if got := Each(all, Limit, whats, func(string) int { <-back; return 0 }); count(got) != 0 || len(all.List()) != most {
			t.Errorf("%d results, %d hang", count(got), len(all.List()))
		}
		_, err := Do(all, Limit, "else", func() (int, error) { t.Error("it is tried"); return 0, nil })
		if err == nil || !strings.Contains(err.Error(), "too many other files") {
			t.Error(err)
		}
		close(back)
		synctest.Wait()
		if got := Each(all, Limit, whats, func(string) int { return 0 }); count(got) != len(whats) {
			t.Errorf("%d results when they have returned", count(got))
		}
	})
}

// Two may be about one thing, and both hang; a result that comes too late is nobody's.
func TestTable_TwoForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &Table{}
		first, second := make(chan struct{}), make(chan struct{})
		ended := make(chan error, 2)
		for _, back := range []chan struct{}{first, second} {
			go func() {
				_, err := Do(all, Limit, "x", func() (int, error) { <-back; return 1, nil })
				ended <- err
			}()
		}
		if a, b := <-ended, <-ended; a == nil || b == nil {
			t.Error(a, b)
		}
		close(first)
		synctest.Wait()
		if all.named() != "x" {
			t.Error("one of the two still hangs")
		}
		close(second)
		synctest.Wait()
		if got, err := Do(all, Limit, "x", func() (int, error) { return 3, errors.ErrUnsupported }); got != 3 || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%d, %v", got, err)
		}
	})
}

// Without a table there is no limit, and no goroutine.
func TestTable_None(t *testing.T) {
	got := Each(nil, Limit, []string{"a", "b"}, func(what string) string { return what })
	if !slices.Equal(got, []Result[string]{{"a", true}, {"b", true}}) || !slices.Equal((*Table)(nil).List(), nil) {
		t.Errorf("%v", got)
	}
	if got, err := Do(nil, Limit, "a", func() (int, error) { return 1, nil }); got != 1 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}
