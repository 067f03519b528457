//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What users read, by class, as the table "What users read" of doc/platform.md
// has it.
func TestPlatformErrorsGraphdriver(t *testing.T)     { testErrors(t, dockerOld, 2) }
func TestPlatformErrorsContainerdStore(t *testing.T) { testErrors(t, dockerNew, 3) }

// column is which one of the table has this client's words.
func testErrors(t *testing.T, v dockerVersion, column int) {
	t.Helper()
	rows := tableBelow(t, "## What users read")
	n := newNode(t)
	d := startPlainDocker(t, v)
	failures := n.failures(t)
	for _, row := range rows {
		for _, class := range codeSpans(row[1]) {
			failure, ok := failures[class]
			if !ok {
				continue // its row has another one
			}
			delete(failures, class)
			t.Run(class, func(t *testing.T) {
				ref, as := failure()
				_, err := d.pullAs(t, ref, registryAuth(as, n.required))
				if err == nil {
					t.Fatalf("%q pulled %s", as.user, ref)
				}
				t.Logf("the user reads: %v", err)
				for _, words := range codeSpans(row[column]) {
					if !inOrder(err.Error(), strings.Split(words, "…")) {
						t.Errorf("the document says %q", words)
					}
				}
			})
		}
	}
	for class := range failures {
		t.Errorf("the document says nothing of %s", class)
	}
}

// failures are pulls that fail, by class.
func (n *node) failures(t *testing.T) map[string]func() (ref string, as login) {
	t.Helper()
	acme, globex := n.as("acme"), n.as("globex")
	private := pushOwn(t, n.acme, "team/private", "acme")
	elsewhere := pushOwn(t, n.acme, "elsewhere/app", "acme")
	foreign := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: buildImage(t, "s390x", nil, layer(t, "s390x", 1<<10)), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
	})
	other := push(t, n.acme.upstream, "team/s390x", foreign)
	both := n.pushBoth(t, "team/trouble")
	public := pushOwn(t, n.globex, "team/denied", "globex")
	return map[string]func() (string, login){
		"unauthorized":   func() (string, login) { return n.local("acme", elsewhere), acme },
		"no_credential":  func() (string, login) { return n.local("globex", private), globex },
		"caller":         func() (string, login) { return n.local("acme", private), login{"acme", "wrong"} },
		"policy":         func() (string, login) { return n.local("acme", private), globex },
		"wrong_platform": func() (string, login) { return n.local("acme", other), acme },
		"not_found": func() (string, login) {
			return strings.TrimSuffix(n.local("acme", private), "1") + "mistyped", acme
		},
		"denied": func() (string, login) {
			n.globex.gate.say(http.StatusForbidden)
			return n.local("globex", public), globex
		},
		"rate_limited": func() (string, login) {
			n.own["globex"].gate.say(http.StatusTooManyRequests)
			return n.local("globex", both["globex"]), globex
		},
		"unreachable": func() (string, login) {
			_ = n.own["acme"].gate.server.Close()
			return n.local("acme", both["acme"]), acme
		},
	}
}

// inOrder says whether text has all parts, one after the other.
func inOrder(text string, parts []string) bool {
	for _, part := range parts {
		_, rest, ok := strings.Cut(text, strings.TrimSpace(part))
		if !ok {
			return false
		}
		text = rest
	}
	return true
}
