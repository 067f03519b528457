package upstream

import (
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/internal/ocitest/zoo"
	"berth/oci"
	"berth/upstream/dialect"
)

// Stand-ins for the kinds of registries that there are.
func TestZoo(t *testing.T) {
	zoo.Test(t, func(t *testing.T, up *ocitest.Registry, typeName string, c ocitest.Caller) oci.Source {
		t.Helper()
		kind, ok := dialect.TypeNamed(typeName)
		if !ok {
			t.Fatalf("there is no type %q", typeName)
		}
		r := newRegistry(t, Options{Origin: up.Origin(), CAs: up.CertPool(), Type: kind, TokenEndpoints: []string{up.TokenURL()}})
		r.pause = time.Millisecond
		return r.As(as(c.Organisation, c.User, c.Password))
	})
}
