package proxy

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
)

// A refusal by a limit of this node is counted under that limit's name: what helps against
// one does not help against another.
func TestLimited_UnderItsName(t *testing.T) {
	second := func(take func(context.Context) error) (err error) {
		synctest.Test(t, func(t *testing.T) {
			if err = take(t.Context()); err == nil {
				err = take(t.Context())
			}
		})
		return err
	}
	pool := func(p *limit.Pool) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := p.Take(ctx, limit.Want{Organisation: "acme", N: 1})
			return err
		}
	}
	host := func(all *limit.Hosts, perMinute int64) func(context.Context) error {
		h := all.Use("", "hub.test:443", perMinute)
		return func(ctx context.Context) error {
			_, err := h.Admit(ctx, limit.Call{Organisation: "acme"})
			return err
		}
	}
	for want, take := range map[string]func(context.Context) error{
		"limits.requests":      pool(&limit.Pool{Most: 1}),
		"limits.fills":         pool(&limit.Pool{Most: 1, Queue: 1, Wait: time.Second, Key: "limits.fills"}),
		"memory":               pool(&limit.Pool{Total: 1, Queue: 1, Wait: time.Second, Key: "its share of memory"}),
		"limits.rate":          host(&limit.Hosts{Rate: limit.Rate{PerSecond: .001, Burst: 1}}, 0),
		"upstream.connections": host(&limit.Hosts{Connections: 1}, 0),
		"registry":             host(&limit.Hosts{}, 3),
	} {
		s := tokenSite(t, nil)
		if s.fake.fails["resolve"] = second(take); s.fake.fails["resolve"] == nil {
			t.Errorf("%s: nothing is refused", want)
			continue
		}
		s.get("/v2/ghcr.io/acme/app/manifests/1", basicHeader("acme", "acme-canary-secret")...).wants(t, http.StatusServiceUnavailable)
		if n := s.value("berth_limit_refusals_total", "organisation", "acme", "limit", want); n != 1 {
			t.Errorf("%s: %v refusals are counted", want, n)
		}
	}
}
