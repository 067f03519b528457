package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Whatever clients are said to be called, and whether they came here or not, there are so
// many series, and those of registries that are gone end.
func TestBypasses_AreBounded(t *testing.T) {
	for _, seen := range []bool{true, false} {
		b, refused := newBypasses(prometheus.NewRegistry()), 0
		for i := range 2 * maxWays {
			if b.found(way{fmt.Sprint("client", i), "ghcr.io"}, seen, time.Now()) != nil {
				refused++
			}
		}
		if n := testutil.CollectAndCount(b.gauge); n != maxWays || refused != maxWays {
			t.Errorf("seen %v: %d series, %d were refused", seen, n, refused)
		}
		if n := len(b.shown()); seen != (n == 0) {
			t.Errorf("seen %v: %d are shown to have gone around", seen, n)
		}
		b.keep([]string{"docker.io"})
		if n := testutil.CollectAndCount(b.gauge); n != 0 {
			t.Errorf("seen %v: %d series of a registry that is gone", seen, n)
		}
	}
}
