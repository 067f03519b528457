package auth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetrics(t *testing.T) {
	f, c, reg := newFakeRegistry(t, false), newClock(), prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	a := f.authority(AuthorityOptions{Now: c.now, Metrics: m})
	cred := credential("acme", "ci", "bot", "pw")
	f.token = func(w http.ResponseWriter, _ *http.Request, _, _ string) { w.WriteHeader(http.StatusUnauthorized) }
	_, _ = f.header(a, cred, "x")
	_, _ = f.header(a, nil, "x")
	want := func(ok, until string) {
		t.Helper()
		labels := `{account="ci",organisation="acme",registry="registry.test"} `
		expected := "# HELP berth_cooldown_until_timestamp_seconds Until when the registry is not asked with this credential, or by this node without one (-), as a Unix time; 0: it is asked.\n# TYPE berth_cooldown_until_timestamp_seconds gauge\nberth_cooldown_until_timestamp_seconds" + labels + until +
			"\n# HELP berth_credential_ok Whether the registry took the credential when it was last shown: 1 or 0; 0 also where its secret cannot be used.\n# TYPE berth_credential_ok gauge\nberth_credential_ok" + labels + ok + "\n"
		if err := testutil.GatherAndCompare(reg, strings.NewReader(expected)); err != nil {
			t.Error(err)
		}
	}
	want("0", fmt.Sprint(float64(c.now().Add(time.Minute).Unix())))
	f.be(func() { f.token = nil })
	c.advance(time.Minute)
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	want("1", "0")
	m.Forget("acme", "registry.test", "ci")
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
		t.Errorf("%d series are left, %v", n, err)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("registered twice")
	}
	var none *Metrics
	none.CredentialOK(cred, true)
	none.CoolDown(cred, time.Time{})
	none.Forget("", "", "")
}

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
	old, renewed := credential("acme", "ci", "bot", "old"), credential("acme", "ci", "bot", "new")
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
