package fleet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Some nodes die before they have brought anything. Only of whoever does so again, or of
// many at once, nothing is expected any more.
func TestTier_VainLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tier := New(Options{})
		want := func(what string, nodes map[string]bool) {
			t.Helper()
			for n, ignored := range nodes {
				if tier.ignoresLeases(n) != ignored {
					t.Errorf("%s: the leases of %s are ignored: %t", what, n, !ignored)
				}
			}
		}
		tier.inVain("a")
		tier.inVain("b")
		want("one each", map[string]bool{"a": false, "b": false, "c": false})
		time.Sleep(vainWithin)
		tier.inVain("a")
		want("again, much later", map[string]bool{"a": false})
		tier.inVain("a")
		want("again at once", map[string]bool{"a": true, "b": false, "c": false})
		time.Sleep(vainFor)
		want("ten minutes later", map[string]bool{"a": false})
		for i := range vainAll {
			want("fewer than eight", map[string]bool{"c": false})
			tier.inVain(fmt.Sprint("many-", i))
		}
		want("eight of any", map[string]bool{"a": true, "c": true})
		time.Sleep(vainFor)
		want("ten minutes after that", map[string]bool{"a": false, "c": false})
	})
}
