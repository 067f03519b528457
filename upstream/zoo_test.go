package upstream

import (
	"net/http"
	"testing"
	"time"

	"berth/auth/token"
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
		r := newRegistry(t, Options{Origin: up.Origin(), CAs: up.CertPool(), Type: kind, Authority: func(rt http.RoundTripper) (Authority, error) {
			return token.New(token.Options{
				Origin: up.Origin(), Registry: "registry.test", Type: kind, TokenEndpoints: []string{up.TokenURL()}, Transport: rt,
			})
		}})
		r.pause = time.Millisecond
		return r.As(as(c.Organisation, c.User, c.Password))
	})
}
