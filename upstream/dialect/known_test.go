package dialect_test

import (
	"slices"
	"strings"
	"testing"

	"berth/oci"
	"berth/upstream/dialect"

	"berth/auth/token"
)

// Every built-in registry has a type and an https endpoint, every known token
// endpoint is one that the guard takes, and no two registries share a name.
func TestRegistries(t *testing.T) {
	seen := map[string]string{}
	for _, r := range dialect.Registries() {
		k, ok := dialect.TypeNamed(r.Type)
		if !ok || !r.UniformView {
			t.Errorf("%s: type %q, uniform view %v", r.Name, r.Type, r.UniformView)
		}
		host, ok := strings.CutPrefix(r.Endpoint, "https://")
		if !ok {
			t.Errorf("%s: endpoint %s", r.Name, r.Endpoint)
		}
		realms, err := token.NewRealms(oci.Origin{Scheme: "https", Host: host}, slices.Concat(k.TokenEndpoints, r.TokenEndpoints)...)
		if err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
		for _, e := range slices.Concat(k.TokenEndpoints, r.TokenEndpoints) {
			if _, err := realms.Check(e); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		}
		for _, name := range append(r.Aliases, r.Name) {
			if was, ok := seen[name]; ok {
				t.Errorf("%s is a name of %s and of %s", name, was, r.Name)
			}
			seen[name] = r.Name
		}
	}
	want := []string{"docker.io", "ghcr.io", "registry.digitalocean.com", "quay.io", "gcr.io", "mcr.microsoft.com", "registry.k8s.io", "public.ecr.aws", "registry.gitlab.com", "lscr.io"}
	for _, name := range want {
		if seen[name] != name {
			t.Errorf("%s is missing", name)
		}
	}
	if seen["index.docker.io"] != "docker.io" || seen["registry-1.docker.io"] != "docker.io" {
		t.Error("Docker Hub's other names are missing")
	}
	dialect.Registries()[0].Aliases[0] = "changed"
	dialect.Registries()[0].Name = "changed"
	if got := dialect.Registries()[0]; got.Name != "docker.io" || got.Aliases[0] != "index.docker.io" {
		t.Error("a caller changed the table")
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
