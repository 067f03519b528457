package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// changing is a Source whose answer the test sets.
type changing struct {
	password string
	err      error
}

func (c *changing) Login(context.Context) (Login, error) {
	return Login{Username: secret.New("bot"), Password: secret.New(c.password)}, c.err
}

// How long the secret from before serves when its source gives none, by why it does
// not. A file that is not there ends the account; a node without memory, and a
// helper that fails, say nothing about it.
func TestSecret_ThatIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		serves time.Duration
	}{
		"not there":         {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, slipFor},
		"not ours to read":  {&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, slipFor},
		"an input error":    {&fs.PathError{Op: "read", Path: "x", Err: syscall.EIO}, slipFor},
		"open to others":    {errors.New("mode 0644"), slipFor},
		"no memory":         {fmt.Errorf("reading a secret: %w", &fs.PathError{Op: "open", Path: "x", Err: syscall.ENOMEM}), troubleFor},
		"a helper's faults": {fmt.Errorf("credential helper: %w", unlearned{errors.New("it failed")}), troubleFor},
		"empty":             {nil, slipFor},
	} {
		t.Run(name, func(t *testing.T) {
			clk, source := ocitest.NewClock(), &changing{password: "one"}
			table := func(before *Table) *Table {
				c, err := NewTable(TableOptions{Key: NewKey(), Now: clk.Now, Before: before, Entries: []Entry{{Name: "ci", Organisation: "acme", Registry: "r", Source: source}}})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			creds := table(nil)
			there := func() bool {
				cred, err := creds.Lookup(t.Context(), "acme", "", "r", "x")
				return err == nil && cred != nil
			}
			if !there() {
				t.Fatal("not there at first")
			}
			source.password, source.err = "", c.err
			clk.Advance(time.Second)
			if !there() {
				t.Error("gone at once")
			}
			clk.Advance(c.serves - time.Second)
			if !there() {
				t.Error("gone too early")
			}
			creds = table(creds) // a new configuration gives no new time
			clk.Advance(time.Second)
			if there() {
				t.Error("not gone")
			}
			if old, err := creds.Trouble("acme", "ci", "r"); old || err == nil {
				t.Errorf("old one serves: %v, %v", old, err)
			}
			source.password, source.err = "one", nil
			clk.Advance(time.Second)
			if !there() || creds.Renewed("acme", "ci", "r") {
				t.Errorf("there %v, renewed %v", there(), creds.Renewed("acme", "ci", "r"))
			}
			source.err = c.err
			clk.Advance(time.Second)
			if c.err != nil && !there() {
				t.Error("the time of the last loss is counted on")
			}
			source.password, source.err = "two", nil
			clk.Advance(time.Second)
			if !there() || !creds.Renewed("acme", "ci", "r") {
				t.Error("another secret is not said to be new")
			}
		})
	}
}

// The gauge of an account is about the secret that it has now: 0 where it has none,
// no series where it is new, and what the registry thought of it where it is back.
// An answer to another secret that is still on its way changes nothing.
func TestMetrics_OfAChangedSecret(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	value := func() string {
		t.Helper()
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.GetName() == "berth_credential_ok" {
				return fmt.Sprint(f.GetMetric()[0].GetGauge().GetValue())
			}
		}
		return "none"
	}
	one, two := testAccount("acme", "ci", "bot", "one"), testAccount("acme", "ci", "bot", "two")
	for i, step := range []struct {
		do   func()
		want string
	}{
		{func() { m.usable(one) }, "none"},
		{func() { m.CredentialOK(one, true) }, "1"},
		{func() { m.unusable("acme", "registry.test", "ci") }, "0"},
		{func() { m.CredentialOK(one, true) }, "0"},
		{func() { m.usable(one) }, "1"},
		{func() { m.CredentialOK(one, false); m.CoolDown(one, time.Now()) }, "0"},
		{func() { m.usable(two) }, "none"},
		{func() { m.CredentialOK(one, false) }, "none"},
		{func() { m.CredentialOK(two, true) }, "1"},
		{func() { m.Forget("acme", "registry.test", "ci") }, "none"},
		{func() { m.CredentialOK(one, true) }, "1"}, // nothing is remembered
	} {
		if step.do(); value() != step.want {
			t.Fatalf("step %d: %s, want %s", i, value(), step.want)
		}
		if i == 6 { // the new secret was never left alone
			if err := testutil.GatherAndCompare(reg, strings.NewReader("# HELP berth_cooldown_until_timestamp_seconds Until when the registry is not asked with this credential, or by this node without one (-), as a Unix time; 0: it is asked.\n# TYPE berth_cooldown_until_timestamp_seconds gauge\nberth_cooldown_until_timestamp_seconds{account=\"ci\",organisation=\"acme\",registry=\"registry.test\"} 0\n"), "berth_cooldown_until_timestamp_seconds"); err != nil {
				t.Error(err)
			}
		}
	}
}

// A helper that has no secret for a server says so in its own way; one that fails
// says nothing.
func TestHelper_ThatHasNoSecret(t *testing.T) {
	for script, want := range map[string]time.Duration{
		"echo credentials not found in native keychain; exit 1": slipFor,
		"echo cannot reach the cloud; exit 1":                   troubleFor,
		"echo '{}'":                                             slipFor,
	} {
		ocitest.CredentialHelper(t, "lost", script)
		_, err := HelperSource(Helper{Name: "lost", Server: "r.example"}).Login(t.Context())
		if err == nil || outlives(err) != want {
			t.Errorf("%s: %v serves for %v, want %v", script, err, outlives(err), want)
		}
	}
}
