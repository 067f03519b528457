package golden

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// village is a folder with a cache, and one registry with one image: three layers for
// two platforms. Nodes can be started from it one after the other.
type village struct {
	dir, tagTTL string
	registry    *ocitest.Registry
	image       ocitest.Pushed
	env         []string // of its nodes
}

func newVillage(t *testing.T, private bool) *village {
	t.Helper()
	v := &village{dir: t.TempDir(), tagTTL: "1h"}
	o := ocitest.Options{Auth: ocitest.Bearer, Private: private}
	if private {
		o.Refusal = ocitest.RefuseAtToken
	}
	v.registry = ocitest.New(t, o)
	v.image = v.registry.AddImage("acme/app", "1", ocitest.Image{
		Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{10_000, 300_000, 5 << 20},
	})
	for _, name := range []string{"acme", "globex"} {
		v.registry.AddUser(name+"-bot", name+"-secret", "acme/**")
		write(t, filepath.Join(v.dir, name), name+"-secret\n")
	}
	return v
}

// node starts one, below a program if there is one. acme and globex have accounts, initech and umbrella have none.
func (v *village) node(t *testing.T, under ...string) *node {
	t.Helper()
	tenant := func(name string, account bool) string {
		s := fmt.Sprintf("  %s:\n    tokens: [{name: only, sha256: %x}]\n", name, sha256.Sum256([]byte(doorOf(name))))
		if account {
			s += fmt.Sprintf("    credentials: [{name: ci, registry: ghcr.io, username: %s-bot, password_file: %q}]\n", name, filepath.Join(v.dir, name))
		}
		return s
	}
	// By the key of every run: the notes of a download have a number that is made with it.
	write(t, filepath.Join(v.dir, "cache", "key"), strings.Repeat("k", 32))
	return serve(t, fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0", callers: token}]
registries:
  ghcr.io: {endpoint: %q}
organisations:
%scache: {directory: %q, max_size: 4GiB, min_free: 1MB, tag_ttl: %s, access_ttl: 1h}
admin: {address: "127.0.0.1:0", socket: ""}
log: {level: info, format: json}
`, v.registry.URL(), tenant("acme", true)+tenant("globex", true)+tenant("initech", false)+tenant("umbrella", false), filepath.Join(v.dir, "cache"), v.tagTTL),
		1, append([]string{"STATE_DIRECTORY="}, v.env...), under...)
}

func doorOf(organisation string) string { return "door-" + organisation + "-0123456789abcdef" }

// asked is what a registry was asked for, the pings aside. Registries count manifest GETs.
type asked struct{ token, head, get, blobs int }

// cost is what the registry was asked for since the last time.
func (v *village) cost(t *testing.T) asked {
	t.Helper()
	var a asked
	for _, r := range v.registry.Requests(ocitest.Match{}) {
		switch {
		case r.Kind == ocitest.Ping:
		case r.Kind == ocitest.Token:
			a.token++
		case r.Kind == ocitest.Manifest && r.Method == http.MethodHead:
			a.head++
		case r.Kind == ocitest.Manifest && r.Method == http.MethodGet:
			a.get++
		case r.Kind == ocitest.Blob && r.Method == http.MethodGet:
			a.blobs++
		default: // the table has no column for it
			t.Errorf("the registry was asked for %s %s", r.Method, r.Path)
		}
	}
	v.registry.Forget()
	return a
}

// layersOfVillage is the N of the table.
const layersOfVillage = 3

// row is a as a row of the table.
func (a asked) row(name string) string {
	blobs := strconv.Itoa(a.blobs)
	if a.blobs == layersOfVillage+1 {
		blobs = "N+1"
	}
	return fmt.Sprintf("| %s | %d | %d | %d | %s |\n", name, a.token, a.head, a.get, blobs)
}

// What a pull of an image costs upstream: the table of doc/design.md, as a registry that
// counts has seen it. TestCostOfAPull in cmd/berth has access_ttl, for which it moves a
// clock.
func TestGolden_UpstreamRequests(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("| | token | HEAD manifest | GET manifest | GET blob |\n|---|---|---|---|---|\n")
	pull := func(v *village, n *node, who, name string) {
		n.pull(n.doors[0], "ghcr.io/acme/app", "1", "login", who+":"+doorOf(who))
		a := v.cost(t)
		if name != "" {
			b.WriteString(a.row(name))
		}
	}
	v := newVillage(t, true)
	n := v.node(t)
	pull(v, n, "acme", "cold, multi-platform tag")
	pull(v, n, "acme", "warm within `tag_ttl` and `access_ttl`")
	n.stop()
	v.tagTTL = "0s"
	n = v.node(t)
	pull(v, n, "acme", "") // it fetches a token
	pull(v, n, "acme", "warm after")
	pull(v, n, "globex", "second organisation, own credential")
	n.stop()

	v = newVillage(t, false)
	n = v.node(t)
	pull(v, n, "acme", "")
	pull(v, n, "initech", "second organisation, no credential, public image")
	pull(v, n, "umbrella", "third organisation, no credential, public image")
	n.stop()
	hold(t, "upstream_requests", "What a pull of an image with N layers asks the registry for, pings aside (doc/design.md has the same table).", b.String())

	document, err := os.ReadFile("../../doc/design.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(document), "\n\n"+b.String()+"\n") {
		t.Errorf("doc/design.md has another table than what was measured:\n%s", b.String())
	}
}
