package node

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/credential"
	"berth/internal/config"
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

// Whoever changes his registries all the time keeps a bounded number of those that are gone:
// the last ones, mirrors counted. Nobody else's go for that, nor the node's.
func TestRetired_OfAnOrganisationAreBounded(t *testing.T) {
	t.Parallel()
	n := &node{setup: setup{now: time.Now}, current: &generation{clients: registryClients{}}, upstream: upstream.NewMetrics(nil)}
	open := map[string]int{}
	change := func(organisation string, registries, mirrors int) {
		old := registryClients{}
		for i := range registries {
			name := fmt.Sprint(i, ".example")
			open[organisation]++
			old[registryKey{organisation, name}] = &registryClient{
				spec: &registry.Spec{Name: name, Organisation: organisation}, mirrors: make([]*upstream.Registry, mirrors), close: func() { open[organisation]-- },
			}
		}
		n.retire(old)
	}
	change("acme", 10, 0)
	change("", 2*mostRetired, 0)
	for range 5 {
		change("globex", mostRetired/2, 1)
	}
	if open["acme"] != 10 || open[""] != 2*mostRetired || open["globex"] != mostRetired/2 {
		t.Errorf("open are %v", open)
	}
	change("globex", 1, 0)
	if got := open["globex"]; got != mostRetired/2 || len(n.retired[len(n.retired)-1].mirrors) != 0 { // 499 with a mirror, and the last one
		t.Errorf("%d are open, and the last one has %d mirrors", got, len(n.retired[len(n.retired)-1].mirrors))
	}
}

// An organisation may call its registry dockerhub: how its refusals are read is its own
// business. Docker Hub's token endpoint is not.
func TestOwnRegistry_TypeBringsNoTokenEndpoint(t *testing.T) {
	t.Parallel()
	auth, err := credential.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{setup: setup{now: time.Now, log: slog.New(slog.DiscardHandler)}, upstream: upstream.NewMetrics(nil), auth: auth, started: config.Default(config.Options{})}
	challenge := http.Header{"Www-Authenticate": {`Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`}}
	for organisation, allowed := range map[string]bool{"": true, "acme": false} {
		for _, kind := range []registry.Type{registry.DockerHub, registry.Generic} {
			spec, err := registry.New("hub.acme.example", organisation, registry.Place{Type: kind, Endpoint: "https://hub.acme.example"}, registry.Trust{})
			if err != nil {
				t.Fatal(err)
			}
			c, err := n.newClient(spec, nil)
			if err != nil {
				t.Fatal(err)
			}
			if learnt := c.upstream.Authority().Challenged(challenge, organisation, "acme/app"); learnt != (allowed && kind == registry.DockerHub) {
				t.Errorf("%q, %s: the realm is taken: %v", organisation, kind, learnt)
			}
			c.close()
		}
	}
}
