package node

import (
	"testing"
	"time"

	"berth/internal/registry"
	"berth/upstream"
)

// Lines that nobody asks for any more are closed after a day, those in use never.
func TestRetiredLines(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	closed := map[string]bool{}
	n := &node{setup: setup{now: func() time.Time { return now }}, current: &generation{clients: registryClients{}}, upstream: upstream.NewMetrics(nil)}
	keep := &registryClient{spec: &registry.Spec{Name: "kept"}, close: func() { closed["kept"] = true }}
	old := &registryClient{spec: &registry.Spec{Name: "old"}, close: func() { closed["old"] = true }}
	older := &registryClient{spec: &registry.Spec{Name: "older"}, close: func() { closed["older"] = true }}
	at := registryKey{name: "kept"}
	n.current.clients[at] = keep
	n.retire(registryClients{at: keep, {name: "older"}: older})
	now = now.Add(retireFor - time.Second)
	n.retire(registryClients{at: keep, {name: "old"}: old})
	if len(closed) > 0 {
		t.Errorf("closed too early: %v", closed)
	}
	now = now.Add(time.Second)
	n.retire(registryClients{at: keep})
	if len(closed) != 1 || !closed["older"] || len(n.retired) != 1 {
		t.Errorf("closed: %v, retired: %d", closed, len(n.retired))
	}
}
