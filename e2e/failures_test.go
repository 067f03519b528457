//go:build e2e

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// One failing pull adds exactly 1 to the count of its reason and to no other,
// whatever the client tries on the way, and berth failures has the message,
// also where the client hides it.

func TestFailuresGraphdriver(t *testing.T) {
	testFailures(t, everyReason, func(t *testing.T, _ *node) puller { return startPlainDocker(t, dockerOld) })
}

func TestFailuresContainerdStore(t *testing.T) {
	testFailures(t, everyReason, func(t *testing.T, _ *node) puller { return startPlainDocker(t, dockerNew) })
}

func TestFailuresContainerd1(t *testing.T) {
	testFailures(t, everyReason, func(t *testing.T, n *node) puller { return n.startContainerd(t, containerdOne) })
}

func TestFailuresContainerd2(t *testing.T) {
	testFailures(t, everyReason, func(t *testing.T, n *node) puller { return n.startContainerd(t, containerdTwo) })
}

func TestFailuresPodman(t *testing.T) {
	testFailures(t, tenantsReasons, func(t *testing.T, _ *node) puller { return startPodman(t) })
}

func TestFailuresCrane(t *testing.T) {
	testFailures(t, tenantsReasons, func(t *testing.T, _ *node) puller { return craneClient{craneProgram.find(t)} })
}

// Where a login is asked for and there is none, podman sends an empty one.
func TestPodmanWithoutLogin(t *testing.T) {
	n := newNode(t)
	i := pushOwn(t, n.acme, "team/app", "acme")
	mustRefuse(t, startPodman(t), n.local("acme", i), login{}, refused, "this node asks who is pulling")
	if got := n.counted(t)["caller"]; got != 1 {
		t.Errorf("%v failures were counted", got)
	}
}

// The reasons, in an order in which none disturbs the next. podman waits as long
// as Retry-After says, and crane for some seconds.
var (
	tenantsReasons = []string{"not_found", "unauthorized", "no_credential", "wrong_platform", "caller", "policy", "denied"}
	everyReason    = append(slices.Clip(tenantsReasons), "rate_limited", "unreachable")
)

func testFailures(t *testing.T, reasons []string, start func(*testing.T, *node) puller) {
	t.Helper()
	n := newNode(t)
	p := start(t, n)
	failures := n.failures(t)
	for _, reason := range reasons {
		t.Run(reason, func(t *testing.T) {
			ref, as := failures[reason]()
			before := n.counted(t)
			_, err := p.pull(t, ref, as)
			if err == nil && reason != "wrong_platform" { // ctr of containerd 2 is content with an index without an image
				t.Fatalf("%q pulled %s", as.user, ref)
			}
			t.Logf("the user reads: %v", err)
			after := n.counted(t)
			for _, r := range everyReason {
				want := 0.0
				if r == reason {
					want = 1
				}
				if got := after[r] - before[r]; got != want {
					t.Errorf("%v failures were counted as %s", got, r)
				}
			}
			n.wasKept(t, ref, as, reason)
		})
	}
}

// counted is how many pulls failed, by reason.
func (n *node) counted(t *testing.T) map[string]float64 {
	t.Helper()
	b := &berth{admin: n.admin}
	all := map[string]float64{"wrong_platform": b.metric(t, "berth_wrong_platform_total")}
	for _, reason := range everyReason {
		if reason != "wrong_platform" {
			all[reason] = b.metric(t, "berth_pull_failures_total", `reason="`+reason+`"`)
		}
	}
	return all
}

// wasKept wants a failure to be the latest of whoever pulled.
func (n *node) wasKept(t *testing.T, ref string, as login, reason string) {
	t.Helper()
	path, err := berthBinary()
	must(t, err)
	organisation, _, _ := strings.Cut(as.user, "+")
	if reason == "caller" {
		organisation = "-"
	}
	text, err := run(t, n.dir, nil, path, "failures", "--config", n.config(), "--json", "--org", organisation)
	must(t, err)
	var list struct {
		Failures []struct {
			Class, Message, Repository, Reference string
			Count                                 int
		}
	}
	must(t, json.Unmarshal([]byte(text), &list))
	if len(list.Failures) == 0 {
		t.Fatalf("%s has no failures", organisation)
	}
	f := list.Failures[0]
	if f.Class != reason || f.Count != 1 || f.Message == "" || !strings.Contains(ref, f.Repository) {
		t.Errorf("berth failures has %+v", f)
	}
	t.Logf("berth failures: %s", f.Message)
}
