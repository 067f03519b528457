package node

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/proxy"
)

// way is that of a kind of client to a registry.
type way struct{ client, registry string }

// bypasses are what berth doctor found out by having clients pull: whether they came here.
type bypasses struct {
	gauge *prometheus.GaugeVec // client, registry
	last  map[way]time.Time    // when a pull went around the node; zero: it came here
}

// maxWays bounds the series: some kinds of clients, and the registries of a configuration.
const maxWays = 1000

func newBypasses(r prometheus.Registerer) *bypasses {
	return &bypasses{last: map[way]time.Time{}, gauge: promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
		Name: "berth_client_bypass",
		Help: "1: the last pull that berth doctor had the client make from the registry never came to this node. 0: it did.",
	}, []string{"client", "registry"})}
}

// canary answers whether a pull of a tag that nobody has came here: it has failed then.
func (n *node) canary(_ context.Context, r admin.CanaryRequest) (admin.Canary, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(registryNames(n.cfg), r.Registry) || len(r.Client) > 20 || r.Client == "" || r.Tag == "" {
		return admin.Canary{}, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("no client pulls from %.100q through this node: name a client, a registry of the configuration and a tag", r.Registry)}
	}
	seen := slices.ContainsFunc(n.failures.All(time.Time{}), func(f proxy.Failure) bool { return f.Reference == r.Tag })
	return admin.Canary{Seen: seen}, n.bypasses.found(way{r.Client, r.Registry}, seen, n.now())
}

func (b *bypasses) found(w way, seen bool, now time.Time) error {
	if _, known := b.last[w]; !known && len(b.last) >= maxWays {
		return &admin.Error{Status: http.StatusBadRequest, Message: "too many clients and registries"}
	}
	around := 1.0
	if seen {
		around, now = 0, time.Time{}
	}
	b.last[w] = now
	b.gauge.WithLabelValues(w.client, w.registry).Set(around)
	return nil
}

// keep drops what was found about registries that are gone.
func (b *bypasses) keep(registries []string) {
	for w := range b.last {
		if !slices.Contains(registries, w.registry) {
			delete(b.last, w)
			b.gauge.DeleteLabelValues(w.client, w.registry)
		}
	}
}

func (b *bypasses) shown() []admin.Bypass {
	all := []admin.Bypass{}
	for w, last := range b.last {
		if last.IsZero() {
			continue
		}
		all = append(all, admin.Bypass{Client: w.client, Registry: w.registry, Last: last.Truncate(time.Millisecond).UTC()})
	}
	slices.SortFunc(all, func(a, b admin.Bypass) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Registry, b.Registry))
	})
	return all
}

// registryNames are those under which a configuration has registries, its organisations'
// among them.
func registryNames(cfg *config.Config) (all []string) {
	specs, err := cfg.Specs()
	if err != nil {
		return nil // it is not in force then
	}
	for _, s := range specs {
		all = append(append(all, s.Name), s.Aliases...)
	}
	return all
}
