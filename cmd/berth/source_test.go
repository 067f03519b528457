package main

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/internal/secret"
	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
)

// A registry through the cache does what every Source must. It takes minutes:
// upstream's pauses between tries are real here.
func TestSourceThroughTheCache(t *testing.T) {
	if os.Getenv("BERTH_LONG") == "" {
		t.Skip("takes minutes: BERTH_LONG=1 runs it")
	}
	t.Parallel()
	ocitest.TestSource(t, ocitest.Suite{New: func(t *testing.T, r *ocitest.Registry, c ocitest.Caller) oci.Source {
		t.Helper()
		quiet := slog.New(slog.DiscardHandler)
		reg, err := upstream.New(upstream.Options{
			Name: "registry.test", Origin: r.Origin(), CAs: r.CertPool(), Logger: quiet,
			AllowPrivate:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
			Metrics:        upstream.NewMetrics(prometheus.NewRegistry()),
			TokenEndpoints: []string{r.TokenURL()},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(reg.Close)
		kept, err := cache.New(cache.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := kept.Close(); err != nil {
				t.Error(err)
			}
		})
		as := upstream.Identity{Organisation: c.Organisation}
		if c.User != "" {
			version := "fp-" + oci.DigestOf([]byte(c.Organisation+"\x00"+c.User+"\x00"+c.Password)).Encoded()
			cred := &credential.Credential{
				Name: "ci", Organisation: c.Organisation, Registry: "registry.test", Username: secret.New(c.User), Password: secret.New(c.Password),
				Fingerprint: version, Version: version,
			}
			as.Credential = func(context.Context, string) (*credential.Credential, error) { return cred, nil }
		}
		return kept.Through(cache.Upstream{
			Spec: &registry.Spec{Name: "registry.test", Origin: r.Origin()}, Organisation: c.Organisation, As: reg.As(as), Shared: reg.As(upstream.Identity{}),
		})
	}})
}
