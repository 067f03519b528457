//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"berth/internal/ocitest"
	"berth/internal/ocitest/engines"
)

const fleetConfig = `listeners: [{address: %q}]
registries: {docker.io: {endpoint: %q}}
cache: {directory: cache, max_size: 1GiB, min_free: 1%%}
admin: {address: "", socket: %q}
fleet:
  zone: here
  key_file: fleet-key
  bucket: {endpoint: %q, name: %q, access_key_file: bucket-key}
  coordinator: {address: %q, username: node-%d, password_file: password, tls: false}
`

// Three nodes, each with a containerd, pull one image at once: the registry sends it once,
// and counts one pull.
func TestFleet_Containerd2(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: there is no berth")
	}
	const nodes, password = 3, "made-up-password-of-a-node"
	hub := ocitest.New(t, ocitest.Options{})
	hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Slow(16<<20)) // so that all of them are at it
	image := hub.AddImage("library/app", "1", ocitest.Image{Index: true, Layers: []int64{40 << 20, 20 << 20, 4 << 20}, Seed: 1})
	path, err := berthBinary()
	must(t, err)
	printed, err := run(t, t.TempDir(), nil, path, "setup", "fleet")
	must(t, err)
	user := regexp.MustCompile(`(?m)^ *(user NODE on .*)$`).FindString(printed)
	if user == "" {
		t.Fatalf("berth setup fleet prints no user of a node:\n%s", printed)
	}
	var users []string
	for i := range nodes {
		users = append(users, strings.NewReplacer("NODE", fmt.Sprint("node-", i), "PASSWORD", password).Replace(strings.TrimSpace(user)))
	}
	s3, redis := engines.StartS3(t), engines.StartRedis(t, users...)
	var clients []containerd
	for i := range nodes {
		dir, door := tempDir(t, "berth"), freeAddress(t)
		writeFile(t, filepath.Join(dir, "fleet-key"), strings.Repeat("0123456789abcdef", 4)+"\n")
		writeFile(t, filepath.Join(dir, "bucket-key"), s3.AccessKey+":"+s3.Secret+"\n")
		writeFile(t, filepath.Join(dir, "password"), password+"\n")
		config := writeFile(t, filepath.Join(dir, "config.yaml"), fmt.Sprintf(fleetConfig, door, hub.URL(), filepath.Join(dir, "admin.sock"), s3.Endpoint, s3.Bucket, redis.Addr, i))
		startDaemon(t, daemonOptions{
			name: "berth", path: path, args: []string{"serve", "--config", config, "--cache", filepath.Join(dir, "cache")}, dir: dir,
			ready: answers("http://"+door+"/v2/", http.StatusOK),
		})
		c := runContainerd(t, containerdTwo)
		c.leadTo(t, "docker.io", door)
		clients = append(clients, c)
	}
	var pulls sync.WaitGroup
	for i, c := range clients {
		pulls.Go(func() {
			digests, err := c.pull(t, "docker.io/library/app:1", login{})
			if err != nil || len(digests) != 1 || digests[0] != image.Digest.String() {
				t.Errorf("node-%d: %v, %v, want %s", i, digests, err, image.Digest)
			}
		})
	}
	pulls.Wait()
	var sent, size int64
	for _, d := range image.Blobs(0) {
		sent, size = sent+hub.BlobBytes(d), size+int64(len(hub.Bytes("library/app", d)))
	}
	gets := hub.Count(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet})
	t.Logf("%.3f copies, %d counted GETs", float64(sent)/float64(size), gets)
	if sent > size*101/100 || gets != 2 {
		t.Errorf("%d bytes of %d came from the registry, and %d manifests", sent, size, gets)
	}
}
