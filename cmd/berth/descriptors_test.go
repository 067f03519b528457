package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/ocitest"
	"berth/oci"
)

// leave lets the process have n more descriptors, until the test gives back the rest.
// What is open stays so.
func (n *running) leave(t *testing.T, more int) (giveBack func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(n.process.Pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Prlimit(n.process.Pid, unix.RLIMIT_NOFILE, &l, nil); err != nil {
			t.Error(err)
		}
	}
	limit := uint64(0) // each number below it that is free can be had
	for free := 0; free < more; limit++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", n.process.Pid, limit)); err != nil {
			free++
		}
	}
	set(unix.Rlimit{Cur: limit, Max: was.Max})
	giveBack = func() { set(was) }
	t.Cleanup(giveBack)
	return giveBack
}

// alone is a client with one connection, which is open already when there are no
// descriptors for another. It gives up, since a new one would not be accepted.
func (h *home) alone(n *running) *client {
	h.t.Helper()
	c := h.nobody(n)
	transport := &http.Transport{DisableCompression: true, MaxConnsPerHost: 1}
	h.t.Cleanup(transport.CloseIdleConnections)
	c.http = &http.Client{Transport: transport, Timeout: patience}
	if a := c.get("/v2/"); a.status != http.StatusOK {
		h.t.Fatal(a)
	}
	return c
}

// wantNoDescriptor wants the answer of a node that has none left: its own trouble,
// and to be tried again.
func wantNoDescriptor(t *testing.T, what string, a answer) {
	t.Helper()
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "no file descriptor left") {
		t.Errorf("%s: %s", what, a)
	}
}

// That a process has no descriptor left is nobody's fault but its own: what is kept
// is not fetched again, no registry is in trouble, and all of it is well at once when
// there are descriptors again.
func TestDescriptors_NoneLeft(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub, other := ocitest.New(t, ocitest.Options{}), ocitest.New(t, ocitest.Options{})
	kept := hub.AddNoise("library/big", 1, 2<<20)
	cold := hub.AddNoise("library/big", 2, 2<<20)
	image := other.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{5000}})
	h.registry("docker.io", hub)
	h.registry("ghcr.io", other)
	n := h.run()
	c := h.alone(n)
	keptPath, coldPath := "/v2/library/big/blobs/"+kept.String(), "/v2/library/big/blobs/"+cold.String()
	if a := c.get(keptPath); a.status != http.StatusOK {
		t.Fatal(a)
	}
	for n.sample("berth_fills_in_progress") > 0 { // it is on its way to its place
		if t.Context().Err() != nil {
			t.Fatal("the download does not end")
		}
	}
	asked := hub.Count(ocitest.Match{}) + other.Count(ocitest.Match{})
	giveBack := n.leave(t, 0)

	wantNoDescriptor(t, "a kept blob", c.get(keptPath))
	if a := c.head(keptPath); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("a kept blob's size: %s", a)
	}
	wantNoDescriptor(t, "a registry that was not spoken to before", c.get("/v2/ghcr.io/acme/app/manifests/1"))
	if now := hub.Count(ocitest.Match{}) + other.Count(ocitest.Match{}); now != asked {
		t.Errorf("the registries were asked %d times for it", now-asked)
	}
	wantNoDescriptor(t, "a blob that is not kept", c.get(coldPath))
	giveBack()
	n.wantOwnFault(t)
	c.mustPull("ghcr.io/acme/app", image, "")
	for _, path := range []string{keptPath, coldPath} {
		if a := c.get(path); a.status != http.StatusOK || len(a.body) != 2<<20 {
			t.Errorf("when there are descriptors again: %s", a)
		}
	}
	if got := hub.Count(ocitest.Match{Kind: ocitest.Blob, Digest: kept}); got != 1 {
		t.Errorf("the kept blob was asked for %d times", got)
	}
	if n.said("ERROR", "no file descriptor left") == 0 {
		t.Error("the log does not say what to do")
	}
}

// wantOwnFault wants no registry to be in trouble, and no blob and no disk.
func (n *running) wantOwnFault(t *testing.T) {
	t.Helper()
	for series, want := range map[string]float64{
		`berth_breaker_open{registry="docker.io"}`:                                              0,
		`berth_breaker_open{registry="ghcr.io"}`:                                                0,
		`berth_pull_failures_total{organisation="-",reason="unreachable",registry="ghcr.io"}`:   0,
		`berth_pull_failures_total{organisation="-",reason="unreachable",registry="docker.io"}`: 0,
		`berth_pull_failures_total{organisation="-",reason="timeout",registry="docker.io"}`:     0,
		`berth_corrupt_blobs_total{registry="docker.io"}`:                                       0,
		`berth_cache_errors_total{operation="open"}`:                                            0,
		`berth_cache_errors_total{operation="make"}`:                                            0,
		`berth_cache_writable`:    1,
		`berth_disk_bypass_total`: 0,
	} {
		if got := n.sample(series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	for _, bad := range []string{"fetched again", "in trouble", "cannot be written"} {
		if strings.Contains(n.log.String(), bad) {
			t.Errorf("the log says that something is %s:\n%s", bad, n.troubles())
		}
	}
}

// However few descriptors are left, a pull gets all of its bytes or is told whose
// trouble it is, and whoever comes when there are enough gets all: blobs that are
// kept and not yet verified, cold ones, and what is left of one.
func TestDescriptors_FewLeft(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	const few, size = 8, 2 << 20
	var kept, cold [few]oci.Digest
	for i := range few {
		kept[i] = hub.AddNoise("library/big", uint64(2*i), size)
		cold[i] = hub.AddNoise("library/big", uint64(2*i+1), size)
	}
	h.registry("docker.io", hub)
	path := func(d oci.Digest) string { return "/v2/library/big/blobs/" + d.String() }
	n := h.run()
	c := h.nobody(n)
	for _, d := range kept {
		if a := c.get(path(d)); a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	n.stop()
	n = h.run() // which has verified none of them
	c = h.alone(n)
	refused := 0
	for more := range few {
		giveBack := n.leave(t, more)
		for _, d := range []oci.Digest{kept[more], cold[more]} {
			if a := c.get(path(d)); a.status != http.StatusOK || oci.DigestOf(a.body) != d {
				refused++
				wantNoDescriptor(t, fmt.Sprintf("with %d descriptors", more), a)
			}
		}
		giveBack()
		for _, d := range []oci.Digest{kept[more], cold[more]} {
			if a := c.get(path(d)); a.status != http.StatusOK || oci.DigestOf(a.body) != d {
				t.Errorf("after %d descriptors: %s", more, a)
			}
		}
		if got := hub.Count(ocitest.Match{Kind: ocitest.Blob, Digest: kept[more]}); got > 2 { // the second proves the right
			t.Errorf("with %d descriptors the kept blob was asked for %d times", more, got)
		}
	}
	if refused < 2 {
		t.Errorf("%d were refused: the descriptors were not short", refused)
	}
	n.wantOwnFault(t)
}

// A kept blob that this process has not verified needs a second descriptor for that:
// without one it is not fetched in place of the one that is there.
func TestDescriptors_NoneToVerify(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{2 << 20}})
	h.registry("docker.io", hub)
	n := h.run()
	h.nobody(n).mustPull("app", image, "")
	n.stop()
	n = h.run()
	c := h.alone(n)
	layer := image.Platforms[0].Layers[0]
	path := "/v2/library/app/blobs/" + layer.String()
	for _, d := range []oci.Digest{image.Digest, image.Platforms[0].Manifest} { // proves the right to its layer
		if a := c.get("/v2/library/app/manifests/" + d.String()); a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	asked := hub.Count(ocitest.Match{})
	giveBack := n.leave(t, 1)
	wantNoDescriptor(t, "a blob to be verified", c.get(path))
	if now := hub.Count(ocitest.Match{}); now != asked {
		t.Errorf("the registry was asked %d times for it", now-asked)
	}
	giveBack()
	if a := c.get(path); a.status != http.StatusOK || oci.DigestOf(a.body) != layer {
		t.Errorf("%s", a)
	}
	n.wantOwnFault(t)
}

// A certificate that changed while no file could be opened is in use as soon as it can
// be read.
func TestDescriptors_Certificate(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.certificate("one")
	s.save(strings.Replace(s.read("berth.yaml"), "callers: open}", "callers: open, tls: {cert_file: tls.crt, key_file: tls.key}}", 1))
	n := (&keeper{home: s.home, notices: newNotices(t)}).startOn(s.path("berth.yaml"))
	n.awaitAddresses(2)
	door := strings.TrimPrefix(n.doors[openDoor], "http://")
	if got := servedBy(t, door); got != "one" {
		t.Fatalf("served with %q", got)
	}
	giveBack := n.leave(t, 0)
	s.certificate("two")
	n.await("it cannot be read", func() bool { return strings.Contains(n.log.String(), "a new certificate cannot be used") })
	giveBack()
	await(t, "the new certificate", func() bool { return servedBy(t, door) == "two" })
}

// A secret and a drop-in that changed while no file could be opened: the old ones
// serve meanwhile, nothing is told to be wrong, and the new ones count as soon as
// they can be read.
func TestDescriptors_SecretsAndConfiguration(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	k := &keeper{home: s.home, notices: newNotices(t)}
	n := k.startOn(s.path("berth.yaml"))
	n.awaitAddresses(2)
	c := s.caller(n, "acme")
	if a := c.get(manifest); a.status != http.StatusOK {
		t.Fatal(a)
	}
	giveBack := n.leave(t, 0)
	s.write(s.path("organisations.d/acme/token"), "acme-renewed\n")
	s.registry.AddUser("acme-bot", "acme-renewed", "acme/**")
	token := "another door"
	s.put("organisations.d/globex.yaml", fmt.Sprintf("tokens: [{name: only, sha256: %x}]\n", sha256.Sum256([]byte(token))))
	if a := c.get(manifest); a.status != http.StatusOK {
		t.Errorf("with the secret that is known: %s", a)
	}
	giveBack()
	globex := s.caller(n, "globex")
	globex.password = token
	globex.await("/v2/", http.StatusOK)
	if a := c.get(manifest); a.status != http.StatusOK {
		t.Errorf("with the new secret: %s", a)
	}
	for _, bad := range []string{"a secret cannot be used", "configuration cannot be used"} {
		if strings.Contains(n.log.String(), bad) {
			t.Errorf("%q is in the log:\n%s", bad, n.troubles())
		}
	}
}

// A start that has fewer descriptors than its limits need says so, once; one that
// has enough does not.
func TestDescriptors_FewerThanTheLimitsNeed(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]int{256: 1, 64 + 3*256: 0} { // its own, and three for each request
		h := newHome(t)
		h.registry("docker.io", ocitest.New(t, ocitest.Options{}))
		path, err := exec.LookPath("berth")
		if err != nil {
			t.Fatal(err)
		}
		n := h.start(exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, limit), path))
		if err := n.process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		n.await("it was read again", func() bool { return n.said("INFO", "the configuration was read again") == 1 })
		if said := strings.Count(n.log.String(), fmt.Sprintf("berth may have %d files and connections open", limit)); said != want {
			t.Errorf("with %d descriptors the log warns %d times:\n%s", limit, said, n.log)
		}
		n.stop()
	}
}
