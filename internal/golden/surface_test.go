package golden

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/nodetest"
	"berth/internal/ocitest"
)

// city is a node with several organisations, before registries that are well and
// registries in every kind of trouble.
type city struct {
	*node
	dir                                       string
	ghcr, hub, limited, broken, lying, silent *ocitest.Registry
	app, public                               ocitest.Pushed
	steps                                     []string // what was asked, and the answer
}

// The doors of a city.
const (
	tokenDoor = iota
	openDoor
)

const acme = "acme:door-acme-0123456789abcdef"

func newCity(t *testing.T) *city {
	t.Helper()
	c := &city{dir: t.TempDir()}
	c.registries(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0") // a port where nobody listens
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	nodetest.Certificate(t, c.dir, "node")
	write(t, filepath.Join(c.dir, "good"), "acme-secret\n")
	write(t, filepath.Join(c.dir, "wrong"), "another-secret\n")
	drop := fmt.Sprintf("tokens: [{name: only, sha256: %x}]\n", sha256.Sum256([]byte("door-globex-0123456789abcdef")))
	write(t, filepath.Join(c.dir, "organisations.d", "globex.yaml"), drop)
	write(t, filepath.Join(c.dir, "organisations.d", "broken.yaml"), "tokns: []\n")
	c.node = serve(t, fmt.Sprintf(`
listeners:
  - {address: "127.0.0.1:0", callers: token}
  - {address: "127.0.0.1:0", callers: open}
  - {address: "127.0.0.1:0", callers: token, tls: {cert_file: %[14]q, key_file: %[15]q}}
registries:
  ghcr.io: {endpoint: %[1]q}
  quay.io: {endpoint: %[1]q}
  docker.io: {endpoint: %[2]q}
  limited.example: {endpoint: %[3]q}
  broken.example: {endpoint: %[4]q}
  lying.example: {endpoint: %[5]q}
  silent.example: {endpoint: %[6]q}
  dead.example: {endpoint: %[7]q}
  mirrored.example: {endpoint: %[7]q, mirrors: [{url: %[2]q}]}
organisations:
  acme:
    tokens: [{name: node-7, sha256: %[8]x, not_after: 2999-12-31}]
    credentials:
      - {name: ci, registry: ghcr.io, username: acme-bot, password_file: %[9]q}
      - {name: old, registry: quay.io, username: acme-bot, password_file: %[10]q}
organisations_directory: %[11]q
cache: {directory: %[12]q, max_size: 4GiB, min_free: 1MB}
admin: {address: "127.0.0.1:0", socket: %[13]q}
log: {level: debug, format: json}
`, c.ghcr.URL(), c.hub.URL(), c.limited.URL(), c.broken.URL(), c.lying.URL(), c.silent.URL(), dead,
		sha256.Sum256([]byte(acme[len("acme:"):])), filepath.Join(c.dir, "good"), filepath.Join(c.dir, "wrong"),
		filepath.Join(c.dir, "organisations.d"), filepath.Join(c.dir, "cache"), filepath.Join(c.dir, "admin.sock"),
		filepath.Join(c.dir, "tls.crt"), filepath.Join(c.dir, "tls.key")), 3, nil)
	return c
}

// registries starts those of a city.
func (c *city) registries(t *testing.T) {
	t.Helper()
	c.ghcr = ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, Refusal: ocitest.RefuseAtToken})
	c.ghcr.AddUser("acme-bot", "acme-secret", "acme/**")
	c.app = c.ghcr.AddImage("acme/app", "1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{10_000, 300_000}})
	c.ghcr.AddImage("others/app", "1", ocitest.Image{Layers: []int64{2000}})
	c.hub = ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer})
	c.public = c.hub.AddImage("library/nginx", "1", ocitest.Image{Layers: []int64{20_000}})
	c.hub.AddImage("library/amd", "1", ocitest.Image{Index: true, Layers: []int64{2000}, Seed: 2})
	c.hub.AddImage("library/held", "1", ocitest.Image{Layers: []int64{8 << 20}, Seed: 3})
	c.hub.AddImage("library/past", "1", ocitest.Image{Layers: []int64{2000}, Seed: 4})
	c.limited = ocitest.New(t, ocitest.Options{PullLimit: 1})
	c.limited.AddImage("app", "1", ocitest.Image{Layers: []int64{2000}, Seed: 5})
	c.limited.AddImage("app", "2", ocitest.Image{Layers: []int64{2000}, Seed: 6})
	c.broken = ocitest.New(t, ocitest.Options{})
	c.broken.AddImage("app", "1", ocitest.Image{Layers: []int64{2000}, Seed: 7})
	c.lying = ocitest.New(t, ocitest.Options{})
	c.lying.AddImage("app", "1", ocitest.Image{Layers: []int64{2000}, Seed: 8})
	c.silent = ocitest.New(t, ocitest.Options{})
	c.silent.Inject(ocitest.Match{}, 0, ocitest.Silence())
}

// What others see of a node that has had all kinds of requests. The parts share one,
// since its metrics and log are about all of them.
func TestGolden_Surface(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	t.Run("messages", c.messages)
	t.Run("a canary", c.canary)
	t.Run("commands", c.json)
	t.Run("past the disk", c.pastTheDisk)
	t.Run("metrics", c.metrics)
	c.stop()
	t.Run("log", c.logged)
}

// canary tells the node of a client that was made to pull, as berth doctor does.
func (c *city) canary(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(c.dir, "admin.sock"))
	}}}
	resp, err := client.Post("http://admin/v1/canary", "application/json", strings.NewReader(`{"client": "docker", "registry": "ghcr.io", "tag": "none"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s", resp.Status)
	}
}

// pastTheDisk pulls while no file can be written.
func (c *city) pastTheDisk(t *testing.T) {
	limit, err := fileSizes(c.cmd.Process.Pid, 0)
	if err != nil {
		t.Skip("the node's limits cannot be changed here: ", err)
	}
	// A manifest first, which is kept behind its answer: after that the disk has failed,
	// and no blob is tried there and found to be too large for it.
	c.must(http.MethodGet, c.doors[openDoor]+"/v2/past/manifests/1")
	c.awaitLog(t, "the cache folder cannot be written")
	c.pull(c.doors[openDoor], "past", "1")
	c.awaitLog(t, "facts cannot be written") // within a second, in each run
	if _, err := fileSizes(c.cmd.Process.Pid, limit); err != nil {
		t.Fatal(err)
	}
	// What was rotten on the disk is found by the first reader after a start only, so
	// nothing here makes berth_corrupt_blobs_total grow.
	if a := c.must(http.MethodGet, c.admin+"/metrics"); valueOf(string(a.body), "berth_disk_bypass_total") == 0 {
		t.Errorf("nothing went past the disk:\n%s", c.log)
	}
	c.awaitLog(t, "the cache folder can be written again") // some seconds later, in each run
}

// awaitLog waits until the node has said something.
func (c *city) awaitLog(t *testing.T, text string) {
	t.Helper()
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for deadline := time.Now().Add(patience); !strings.Contains(c.log.String(), text); <-ticks.C {
		if time.Now().After(deadline) {
			t.Fatalf("it never said %q:\n%s", text, c.log)
		}
	}
}
