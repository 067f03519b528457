//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// containerd is a running containerd, and ctr as its client.
type containerd struct {
	ctr    string
	dir    string
	socket string
	hosts  string // certs.d, where an image's registry finds its hosts.toml
	says   bool
	pulls  []string
}

// containerdVersion says which containerd to start, and what it is known to do.
type containerdVersion struct {
	daemon, ctr program
	config      string
	says        bool // a HEAD refused with 403 is asked again with GET, for the message
	pulls       []string
}

var (
	containerdOne = containerdVersion{
		daemon: containerd1, ctr: ctr1,
		config: "version = 2\n" +
			"disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n",
	}
	// The buffer turns on the fetching of one layer by several ranges at once.
	containerdTwo = containerdVersion{
		daemon: containerd2, ctr: ctr2, says: true,
		pulls: []string{"--skip-metadata"}, // of the other platforms, which it would fetch too
		config: "version = 3\n" +
			"disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\",\n" +
			"  \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n" +
			"[plugins.\"io.containerd.transfer.v1.local\"]\n" +
			"max_concurrent_downloads = 6\n" +
			"concurrent_layer_fetch_buffer = 1048576\n",
	}
)

// By the registry's own name: hosts.toml and its ?ns= lead to the front.
func TestContainerd1(t *testing.T) {
	testPuller(t, ownName, func(t *testing.T, w *world) puller { return startContainerd(t, containerdOne, w) })
}

func TestContainerd2(t *testing.T) {
	testPuller(t, ownName, func(t *testing.T, w *world) puller { return startContainerd(t, containerdTwo, w) })
}

// Without any hosts.toml: the image's name leads to the front.
func TestContainerd2PlainName(t *testing.T) {
	w := newWorld(t)
	c := startContainerd(t, containerdTwo, w)
	i := pushImage(t, w.acme, "team/plain", 64<<10, 3<<20)
	mustPull(t, c, w.ref(i), w.as("acme"), i.digest)
}

// One layer in many ranges at once comes from upstream once.
func TestContainerd2Ranges(t *testing.T) {
	w := newWorld(t)
	c := startContainerd(t, containerdTwo, w)
	wire := startTap(t, w.host(w.acme))
	c.leadTo(t, w.acme.name, wire.addr)
	i := pushImage(t, w.acme, "team/ranges", 40<<20)
	mustPull(t, c, ownName(w, i), w.as("acme"), i.digest)

	var ranges int
	for _, r := range wire.requests("/blobs/") {
		if r.ranges != "" && r.ranges != "bytes=0-" {
			ranges++
		}
	}
	if ranges < 10 {
		t.Errorf("containerd asked for %d ranges: this is no test of ranges", ranges)
	}
	if ns := wire.requests("")[0].query; ns != "ns="+w.acme.name {
		t.Errorf("containerd's query is %q", ns)
	}
	if !direct {
		fetchedOnce(t, w.acme)
	}
}

// startContainerd starts one whose every pull goes to the front, and nowhere else.
func startContainerd(t *testing.T, v containerdVersion, w *world) containerd {
	t.Helper()
	c := runContainerd(t, v)
	for _, u := range []*upstream{w.acme, w.globex, w.hub} {
		c.leadTo(t, u.name, w.host(u))
	}
	return c
}

// runContainerd starts one whose pulls lead nowhere else than where they say.
func runContainerd(t *testing.T, v containerdVersion) containerd {
	t.Helper()
	path := v.daemon.find(t)
	c := containerd{ctr: v.ctr.find(t), dir: tempDir(t, "ctd"), says: v.says, pulls: v.pulls}
	c.socket, c.hosts = filepath.Join(c.dir, "c.sock"), filepath.Join(c.dir, "certs.d")
	startDaemon(t, daemonOptions{
		name: "containerd",
		path: path,
		args: []string{
			"--config", writeFile(t, filepath.Join(c.dir, "config.toml"), v.config),
			"--root", filepath.Join(c.dir, "root"), "--state", filepath.Join(c.dir, "state"), "--address", c.socket,
		},
		dir:   c.dir,
		ready: accepts(c.socket),
	})
	return c
}

// leadTo writes the hosts.toml of a registry. Server is the last resort, and
// defaults to the registry itself: set to the same address, there is only one
// way. It would do alone, but containerd 1.6 refuses a file without a host.
func (c containerd) leadTo(t *testing.T, registry, address string) {
	t.Helper()
	text := "server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n"
	if c.says {
		text = "server = %[1]q\n"
	}
	writeFile(t, filepath.Join(c.hosts, registry, "hosts.toml"), fmt.Sprintf(text, "http://"+address))
}

func (c containerd) explains() bool { return c.says }

func (c containerd) pullFor(t *testing.T, ref, arch string, as login) error {
	t.Helper()
	_, err := run(t, c.dir, nil, c.ctr, "--address", c.socket, "images", "pull", "--hosts-dir", c.hosts, "--platform", "linux/"+arch, "--user", as.pair(), ref)
	return err
}

func (c containerd) pull(t *testing.T, ref string, as login) ([]string, error) {
	t.Helper()
	args := append([]string{"--address", c.socket, "images", "pull", "--hosts-dir", c.hosts}, c.pulls...)
	if as.user != "" {
		args = append(args, "--user", as.pair())
	}
	if _, err := run(t, c.dir, nil, c.ctr, append(args, ref)...); err != nil {
		return nil, err
	}
	list, err := run(t, c.dir, nil, c.ctr, "--address", c.socket, "images", "list", "name=="+ref)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(list) { // REF TYPE DIGEST SIZE ...
		if f := strings.Fields(line); len(f) > 2 && f[0] == ref {
			return f[2:3], nil
		}
	}
	return nil, fmt.Errorf("%s is not in: %s: %w", ref, list, os.ErrNotExist)
}
