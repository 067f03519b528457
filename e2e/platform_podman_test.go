//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"testing"
)

// One podman store as two organisations, with one file of logins: its keys may
// be as long as the name, so that the name picks the login.
func TestPlatformPodman(t *testing.T) {
	n := newNode(t)
	p := startPodman(t)
	auths := map[string]map[string]string{}
	for _, organisation := range []string{"acme", "globex"} {
		auths[n.required+"/"+organisation] = map[string]string{
			"auth": base64.StdEncoding.EncodeToString([]byte(n.as(organisation).pair())),
		}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	must(t, err)
	writeFile(t, filepath.Join(p.dir, "config.json"), string(text))

	both := n.pushBoth(t, "team/app")
	for _, organisation := range []string{"acme", "globex", "acme"} {
		i := both[organisation]
		mustPull(t, p, n.local(organisation, i), login{}, i.digest)
	}
	i := pushOwn(t, n.acme, "team/private", "acme")
	mustPull(t, p, n.local("acme", i), login{}, i.digest)
	mustRefuse(t, p, n.local("globex", i), login{}, refused, "globex", n.acme.name)
	mustRefuse(t, p, n.local("acme", i), n.as("globex"), refused, "belongs to organisation acme")
	mustRefuse(t, p, n.required+"/"+i.at.name+"/"+i.repo+":1", n.as("globex"), refused, "begin with the organisation")

	stolen, thief := n.steal(t, "team/layers")
	mustRefuse(t, p, n.local("globex", thief), login{}, missing)
	mustPull(t, p, n.local("acme", stolen), login{}, stolen.digest)
	mustPull(t, p, n.local("globex", thief), login{}, thief.digest) // else doc/platform.md says too much
}
