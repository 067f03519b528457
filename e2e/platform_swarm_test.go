//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A Swarm of one node as two organisations.
func TestPlatformSwarm(t *testing.T) {
	n := newNode(t)
	d := startPlainDocker(t, dockerOld)
	must(t, d.call(t, http.MethodPost, "/swarm/init", nil, map[string]any{
		"ListenAddr": freeAddress(t), "AdvertiseAddr": "127.0.0.1",
	}, nil))
	both := n.pushBoth(t, "team/app")
	for _, organisation := range []string{"acme", "globex"} {
		ref := atDigest(n.local(organisation, both[organisation]), both[organisation].digest)
		owner, problem := d.service(t, ref, n.as(organisation))
		if owner != organisation {
			t.Errorf("%s's service is %q's: %s", organisation, owner, problem)
		}
	}
	private := pushOwn(t, n.acme, "team/private", "acme")
	if owner, problem := d.service(t, n.local("acme", private), n.as("acme+ci")); owner != "acme" {
		t.Errorf("acme's service is %q's: %s", owner, problem)
	}
	if owner, problem := d.service(t, n.local("globex", private), n.as("globex")); owner != "" || !strings.Contains(problem, "No such image") {
		t.Errorf("globex's service is %q's: %s", owner, problem)
	}
	// A pull that fails is only logged where an image of that name is there.
	if owner, problem := d.service(t, n.local("acme", private), login{"acme", "wrong"}); owner != "acme" {
		t.Errorf("without a login the service is %q's (%s): then doc/platform.md says too much", owner, problem)
	}
}

// service creates a service of one task and waits for its container, or for the
// reason why there is none.
func (d docker) service(t *testing.T, ref string, as login) (owner, problem string) {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	var service struct{ ID string }
	must(t, d.call(t, http.MethodPost, "/services/create", http.Header{"X-Registry-Auth": {registryAuth(as, host)}}, map[string]any{
		"TaskTemplate": map[string]any{
			"ContainerSpec": map[string]any{"Image": ref},
			"RestartPolicy": map[string]any{"Condition": "none"},
			"Networks":      []any{map[string]any{"Target": "host"}},
		},
	}, &service))
	defer func() { must(t, d.call(t, http.MethodDelete, "/services/"+service.ID, nil, nil, nil)) }()
	filter, err := json.Marshal(map[string][]string{"service": {service.ID}})
	must(t, err)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); ; {
		var tasks []struct {
			Status struct {
				State, Err      string
				ContainerStatus struct{ ContainerID string }
			}
		}
		must(t, d.call(t, http.MethodGet, "/tasks?filters="+url.QueryEscape(string(filter)), nil, nil, &tasks))
		for _, task := range tasks {
			switch s := task.Status; {
			case s.State == "rejected":
				return "", s.Err
			case s.ContainerStatus.ContainerID != "":
				return d.ownerIn(t, s.ContainerStatus.ContainerID), s.Err
			}
			problem = task.Status.State + ": " + task.Status.Err
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("the service of %s comes to nothing: %s", ref, problem)
		}
	}
}
