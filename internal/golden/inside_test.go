package golden

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// errand is one request whose cost is counted.
type errand struct {
	name   string
	path   string // below the repository
	digest oci.Digest
	warm   bool
	// large is content that arrives in as many pieces as the network makes of it, so
	// that calls with a size cannot be counted: their bytes are.
	large bool
}

// What one request costs inside, as strace has seen the built program: calls on the
// object's files below the cache folder, what goes to the client's connection, and what
// the registry is asked for. What a clock does besides (the database is written once a
// second) is not on these files. Each request has a process of its own: what it does
// after its answer is counted too, to the end of the process, and so are the folders that it syncs since it writes to
// them for the first time.
func TestGolden_InsideCalls(t *testing.T) {
	t.Parallel()
	strace := tracer(t)
	v := newVillage(t, true)
	cold := v.registry.AddImage("acme/app", "cold", ocitest.Image{Layers: []int64{2_000, 5 << 20}, Seed: 77})
	p, q := v.image.Platforms[0], cold.Platforms[0]
	first := v.node(t) // fills the cache
	first.pull(first.doors[0], "ghcr.io/acme/app", "1", "login", "acme:"+doorOf("acme"))
	first.stop()
	var b strings.Builder
	for _, e := range []errand{
		{name: "manifest by tag, warm", path: "manifests/1", digest: v.image.Digest, warm: true},
		{name: "manifest by tag, cold", path: "manifests/cold", digest: cold.Digest},
		{name: "blob of 10,000 bytes, warm", path: "blobs/" + string(p.Layers[0]), digest: p.Layers[0], warm: true},
		{name: "blob of 2,000 bytes, cold", path: "blobs/" + string(q.Layers[0]), digest: q.Layers[0]},
		{name: "blob of 5 MiB, warm", path: "blobs/" + string(p.Layers[2]), digest: p.Layers[2], warm: true, large: true},
		{name: "blob of 5 MiB, cold", path: "blobs/" + string(q.Layers[1]), digest: q.Layers[1], large: true},
	} {
		fmt.Fprintf(&b, "%s\n%s", e.name, v.inside(t, strace, e))
	}
	show(t, "performance.md", "inside_calls", b.String())
	hold(t, "inside_calls", "What one request costs inside: calls that succeed. Bytes where the network decides how many calls there are.", b.String())
}

// inside is what e costs.
func (v *village) inside(t *testing.T, strace string, e errand) string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "trace")
	n := v.node(t, under(strace, log)...)
	at, login := n.doors[0]+"/v2/ghcr.io/acme/app/", "acme:"+doorOf("acme")
	// With the token, the connection and the right to the repository.
	n.must(http.MethodGet, at+"manifests/"+string(v.image.Platforms[0].Manifest), "login", login)
	if e.warm {
		n.must(http.MethodGet, at+e.path, "login", login) // the first one after a start looks for rot
	}
	v.cost(t)
	n.must(http.MethodGet, n.doors[0]+"/v2/?begin", "login", login)
	n.must(http.MethodGet, at+e.path, "login", login)
	n.must(http.MethodGet, n.doors[0]+"/v2/?end", "login", login)
	n.stop()
	a := v.cost(t)
	files, client := e.count(readTrace(t, log), filepath.Join(v.dir, "cache"), strings.TrimPrefix(n.doors[0], "http://"))
	return fmt.Sprintf("    asked upstream: token %d, HEAD manifest %d, GET manifest %d, GET blob %d\n    files: %s\n    to the client: %s\n",
		a.token, a.head, a.get, a.blobs, files, client)
}

// count sorts calls: those on the object's files, and those to the client until the
// request that follows.
func (e errand) count(all []syscallMade, cache, door string) (files, client tally) {
	files, client = tally{}, tally{}
	asked, over := false, false
	for _, c := range all {
		socket := strings.HasPrefix(c.on, "TCP:["+door+"->")
		switch {
		case socket && group(c.name) == "read":
			asked = asked || strings.Contains(c.text, "ET /v2/ghcr.io/")
			over = over || strings.Contains(c.text, "ET /v2/?end")
			if strings.Contains(c.text, "ET /v2/?begin") {
				asked, files, client = false, tally{}, tally{}
			}
		case socket && asked && !over:
			client.add(c, e.large)
		case asked && c.about(cache, e.digest.Encoded()):
			files.add(c, e.large)
		}
	}
	return files, client
}

// tally is how many calls there were of each group, and how many bytes they moved.
type tally map[string]*struct {
	calls, bytes int64
	sized        bool // bytes say more than calls
	both         bool
}

func (y tally) add(c syscallMade, large bool) {
	g := group(c.name)
	if y[g] == nil {
		y[g] = &struct {
			calls, bytes int64
			sized, both  bool
		}{}
	}
	one := y[g]
	one.calls++
	if slices.Contains([]string{"read", "write", "sendfile"}, g) {
		one.bytes += c.n
		one.sized, one.both = true, !large
	}
}

// String is the tally, in a fixed order.
func (y tally) String() string {
	var parts []string
	for _, g := range []string{"open", "read", "write", "sendfile", "fsync", "rename", "link", "mkdir", "unlink", "ftruncate"} {
		one := y[g]
		switch {
		case one == nil:
		case one.both:
			parts = append(parts, fmt.Sprintf("%s %d (%d bytes)", g, one.calls, one.bytes))
		case one.sized:
			parts = append(parts, fmt.Sprintf("%s %d bytes", g, one.bytes))
		default:
			parts = append(parts, fmt.Sprintf("%s %d", g, one.calls))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
