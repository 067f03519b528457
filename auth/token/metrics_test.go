package token

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"berth/auth/credential"
	"berth/internal/ocitest"
)

func TestMetrics(t *testing.T) {
	f, c, reg := newFakeRegistry(t, false), ocitest.NewClock(), prometheus.NewPedanticRegistry()
	m, err := credential.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	a := f.authority(Options{Now: c.Now, Metrics: m})
	cred := testAccount("acme", "ci", "bot", "pw")
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
	want("0", fmt.Sprint(float64(c.Now().Add(time.Minute).Unix())))
	f.be(func() { f.token = nil })
	c.Advance(time.Minute)
	if _, err := f.header(a, cred, "x"); err != nil {
		t.Fatal(err)
	}
	want("1", "0")
	m.Forget("acme", "registry.test", "ci")
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
		t.Errorf("%d series are left, %v", n, err)
	}
	if _, err := credential.NewMetrics(reg); err == nil {
		t.Error("registered twice")
	}
	var none *credential.Metrics
	none.CredentialOK(cred, true)
	none.CoolDown(cred, time.Time{})
	none.Forget("", "", "")
}
