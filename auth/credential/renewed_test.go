package credential

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Whoever renews a refused secret reads that it is used again as soon as it was
// taken: what is left alone is the old one. A limit holds for both.
func TestMetricsOfARenewedSecret(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, want float64) {
		t.Helper()
		if got := testutil.ToFloat64(m.coolDown.WithLabelValues("acme", "registry.test", "ci")); got != want {
			t.Errorf("%s: left alone until %v, not %v", what, got, want)
		}
	}
	old, renewed := testAccount("acme", "ci", "bot", "old"), testAccount("acme", "ci", "bot", "new")
	old.Fingerprint, renewed.Fingerprint = "old", "new"
	m.CredentialOK(old, false)
	m.CoolDown(old, time.Unix(100, 0))
	until("refused", 100)
	m.CredentialOK(old, true) // granted before it was refused
	until("the same secret", 100)
	m.CredentialOK(renewed, false)
	until("the new one is no better", 100)
	m.CredentialOK(renewed, true)
	until("renewed", 0)
	m.CoolDownOf("acme", "registry.test", "ci", time.Unix(200, 0))
	m.CredentialOK(renewed, true)
	until("limited", 200)
}
