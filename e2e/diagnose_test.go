//go:build e2e

package e2e

import (
	"encoding/json"
	"testing"
)

// berth diagnose in front of a real registry, with the node and without it.
func TestDiagnose(t *testing.T) {
	n := newNode(t)
	private := pushOwn(t, n.acme, "team/app", "acme")
	elsewhere := pushOwn(t, n.acme, "elsewhere/app", "acme")
	name := func(i image) string { return i.at.name + "/" + i.repo + ":" + i.tag }
	all := func(t *testing.T) {
		for _, c := range []struct {
			what  []string
			class string // "" where it works
			last  string
		}{
			{[]string{name(private), "--org", "acme"}, "", "ratelimit"},
			{[]string{n.local("acme", private), "--org", "acme"}, "", "ratelimit"},
			{[]string{name(private), "--org", "acme", "--platform", "plan9/mips"}, "wrong_platform", "platform"},
			{[]string{name(private) + "-mistyped", "--org", "acme"}, "not_found", "manifest"},
			{[]string{name(private), "--org", "globex"}, "no_credential", "manifest"},
			{[]string{name(elsewhere), "--org", "acme"}, "unauthorized", "manifest"},
			{[]string{n.acme.name, "--org", "acme", "--account", "ci"}, "", "login"},
			{[]string{n.acme.name, "--org", "acme", "--account", "old"}, "unauthorized", "login"},
		} {
			n.diagnose(t, c.what, c.class, c.last)
		}
	}
	t.Run("with the node", all)
	n.stop(t)
	t.Run("without it", all)
}

func (n *node) diagnose(t *testing.T, what []string, class, last string) {
	t.Helper()
	path, err := berthBinary()
	must(t, err)
	text, err := run(t, n.dir, nil, path, append([]string{"diagnose", "--json", "--config", n.config()}, what...)...)
	if (err == nil) != (class == "") {
		t.Errorf("%v: %v", what, err)
	}
	var r struct {
		Class string
		Steps []struct{ Name, State, Detail string }
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Steps) == 0 {
		t.Fatalf("%v: %v: %s", what, err, text)
	}
	end := r.Steps[len(r.Steps)-1]
	if r.Class != class || end.Name != last {
		t.Errorf("%v ends with %q at %+v, want %q at %s", what, r.Class, end, class, last)
	}
	t.Logf("%v: %s: %s", what, end.Name, end.Detail)
}
