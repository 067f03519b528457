package node

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/internal/config"
	"berth/internal/registry"
	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
)

// TestUnlisted_AreBounded: whoever asks for ever more registries gets no more of this
// node's memory, and those that are asked go on; a place is free again after an hour.
func TestUnlisted_AreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	auth, err := credential.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{setup: setup{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}, upstream: upstream.NewMetrics(nil), auth: auth, started: config.Default(config.Options{})}
	defer n.unlisted.close()
	organisation := "acme"
	ask := func(i int) (*registryClient, error) {
		spec, ok := registry.Unlisted(fmt.Sprintf("x%d.example", i))
		if !ok {
			t.Fatal("no registry")
		}
		return n.unlisted.client(n, organisation, spec)
	}
	first, err := ask(0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxUnlisted {
		if _, err := ask(i); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := ask(0); err != nil || again != first {
		t.Errorf("one that is there: %v, %v", again, err)
	}
	_, err = ask(maxUnlisted)
	if e, ok := errors.AsType[*oci.Error](err); !ok || e.Class != oci.Policy || e.HTTPStatus() != 403 {
		t.Errorf("one too many: %v", err)
	}
	// Another organisation comes in, up to as many as the first one has.
	now = now.Add(unlistedLeast - time.Second)
	if _, err := ask(0); err != nil { // in use
		t.Fatal(err)
	}
	organisation = "globex"
	for i := range maxUnlisted / 2 {
		if _, err := ask(1000 + i); err != nil {
			t.Fatalf("the other's %d: %v", i, err)
		}
	}
	if _, err := ask(2000); err == nil || n.unlisted.known["x0.example"] == nil || len(n.unlisted.known) != maxUnlisted {
		t.Errorf("more than half of the places: %v, of %d", err, len(n.unlisted.known))
	}
	// Whoever has asked for too many makes room for himself after a minute, not after an hour.
	now = now.Add(unlistedLeast)
	organisation = "acme"
	if _, err := ask(3000); err != nil || n.unlisted.known["x0.example"] == nil || len(n.unlisted.known) != maxUnlisted {
		t.Errorf("after a minute: %v, of %d", err, len(n.unlisted.known))
	}
	now = now.Add(unlistedFor - time.Second)
	if _, err = ask(0); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if _, err = ask(maxUnlisted); err != nil {
		t.Error(err)
	}
	if len(n.unlisted.known) != 2 || n.unlisted.known["x0.example"] == nil {
		t.Errorf("%d are left", len(n.unlisted.known))
	}
}
