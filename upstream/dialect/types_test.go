package dialect_test

import (
	"slices"
	"strings"
	"testing"

	"berth/internal/registry"
	"berth/oci"
	"berth/upstream/dialect"

	"berth/auth/token"
)

// TestTypes_OfBuiltins: every built-in registry has a type, and every token endpoint that
// is known of it is one that the guard takes.
func TestTypes_OfBuiltins(t *testing.T) {
	for _, r := range registry.Builtins() {
		k, ok := dialect.TypeNamed(string(r.Type))
		if !ok {
			t.Errorf("%s: type %q", r.Name, r.Type)
		}
		host, _ := strings.CutPrefix(r.Endpoint, "https://")
		endpoints := slices.Concat(k.TokenEndpoints, r.TokenEndpoints)
		realms, err := token.NewRealms(oci.Origin{Scheme: "https", Host: host}, endpoints...)
		if err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
		for _, e := range endpoints {
			if _, err := realms.Check(e); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		}
	}
	for _, name := range registry.Type("").Values() {
		if k, ok := dialect.TypeNamed(name); !ok || k.Name != name {
			t.Errorf("the configuration takes type %q, which there is not", name)
		}
	}
}

func TestTypes(t *testing.T) {
	for _, name := range []string{dialect.DockerHub, dialect.GHCR, dialect.DigitalOcean, dialect.Quay, dialect.Generic} {
		if k, ok := dialect.TypeNamed(name); !ok || k.Name != name {
			t.Errorf("%s is %v", name, k)
		}
	}
	if k, ok := dialect.TypeNamed(""); !ok || k.Name != dialect.Generic {
		t.Error("no name is not generic")
	}
	if _, ok := dialect.TypeNamed("harbour"); ok {
		t.Error("an unknown type was found")
	}
}
