//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// One containerd as two organisations, each in a namespace.

func TestPlatformContainerd1(t *testing.T) { testNamespaces(t, containerdOne) }
func TestPlatformContainerd2(t *testing.T) { testNamespaces(t, containerdTwo) }

func testNamespaces(t *testing.T, v containerdVersion) {
	t.Helper()
	n := newNode(t)
	t.Run("isolated", func(t *testing.T) {
		apart := v
		apart.config += block(t, "isolated")
		c := n.startContainerd(t, apart)
		testOwnNamespaces(t, n, c, "isolated")
		stolen, thief := n.steal(t, "team/isolated")
		mustHave(t, c, "acme", stolen, n.as("acme"))
		mustHaveNot(t, c, "globex", thief, n.as("globex"))
	})
	t.Run("shared, as it comes", func(t *testing.T) {
		c := n.startContainerd(t, v)
		testOwnNamespaces(t, n, c, "shared")
		stolen, thief := n.steal(t, "team/shared")
		mustHaveNot(t, c, "globex", thief, n.as("globex"))
		mustHave(t, c, "acme", stolen, n.as("acme"))
		mustHave(t, c, "globex", thief, n.as("globex")) // else doc/platform.md says too much
	})
}

func testOwnNamespaces(t *testing.T, n *node, c containerd, repo string) {
	t.Helper()
	both := n.pushBoth(t, "team/"+repo)
	for _, organisation := range []string{"acme", "globex", "acme"} {
		mustHave(t, c, organisation, both[organisation], n.as(organisation))
	}
	i := pushOwn(t, n.acme, "team/private-"+repo, "acme")
	mustHave(t, c, "acme", i, n.as("acme+ci"))
	mustHaveNot(t, c, "globex", i, n.as("globex"))
}

// startContainerd starts one that knows images by their own names: here these
// need no organisation, since the namespace is it.
func (n *node) startContainerd(t *testing.T, v containerdVersion) containerd {
	t.Helper()
	front := &world{acme: n.acme.upstream, globex: n.globex.upstream, hub: n.own["acme"].upstream, berth: &berth{tokens: n.optional}}
	return startContainerd(t, v, front)
}

// pullIn pulls an image by its own name into a namespace; the digest is what it has then.
func (c containerd) pullIn(t *testing.T, namespace string, i image, as login) (digest string, err error) {
	t.Helper()
	ref := i.at.name + "/" + i.repo + ":" + i.tag
	ctr := []string{"--address", c.socket, "--namespace", namespace, "images"}
	pull := append(append(ctr, "pull", "--hosts-dir", c.hosts, "--user", as.pair()), c.pulls...)
	if _, err := run(t, c.dir, nil, c.ctr, append(pull, ref)...); err != nil {
		return "", err
	}
	list, err := run(t, c.dir, nil, c.ctr, append(ctr, "list", "name=="+ref)...)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == ref {
			return f[2], nil
		}
	}
	return "", nil
}

func mustHave(t *testing.T, c containerd, namespace string, i image, as login) {
	t.Helper()
	if digest, err := c.pullIn(t, namespace, i, as); err != nil || digest != i.digest {
		t.Fatalf("%s has %s as %q, %v", namespace, i.repo, digest, err)
	}
}

func mustHaveNot(t *testing.T, c containerd, namespace string, i image, as login) {
	t.Helper()
	digest, err := c.pullIn(t, namespace, i, as)
	if err == nil {
		t.Fatalf("%s has %s as %s", namespace, i.repo, digest)
	}
	t.Logf("%s reads: %v", namespace, err)
	if !refused.MatchString(err.Error()) && !missing.MatchString(err.Error()) {
		t.Errorf("that is no refusal")
	}
}
