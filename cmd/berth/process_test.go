package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/nodetest"
	"berth/internal/ocitest"
	"berth/oci"
)

// ended runs a berth that is expected to end by itself.
func ended(t *testing.T, env []string, args ...string) (code int, stderr string) {
	t.Helper()
	path, err := exec.LookPath("berth")
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	cmd := exec.CommandContext(soon(t), path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = &text
	err = cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), text.String()
}

var answering = regexp.MustCompile(`msg="answering pulls" address=(\S+)`)

// With no file at all, berth answers in well under a second.
func TestServesWithoutAFile(t *testing.T) {
	if _, err := os.Stat(defaultConfig); err == nil {
		t.Skipf("there is a %s on this machine", defaultConfig)
	}
	h := newHome(t)
	fastest := time.Hour
	for range 3 { // whatever else this machine does may take two of them
		n := &running{t: t, log: nodetest.NewLog(), clients: h.transport, ended: make(chan struct{})}
		cmd := exec.Command(program(t, berthProgram), "serve", "--listen", "127.0.0.1:0")
		cmd.Env = append(os.Environ(), "CACHE_DIRECTORY=", "XDG_CACHE_HOME=", "HOME="+h.dir)
		begin := time.Now()
		n.outside(cmd)
		t.Cleanup(n.stop)
		n.await("it serves", func() bool { return answering.MatchString(n.log.String()) })
		address := answering.FindStringSubmatch(n.log.String())[1]
		c := h.client("http://" + address)
		if a := c.get("/v2/"); a.status != http.StatusOK || string(a.body) != "{}" {
			t.Errorf("%s", a)
		}
		fastest = min(fastest, time.Since(begin))
		// The built-in registries are there; nothing was asked yet.
		if a := c.get("/v2/x.example/app/manifests/1"); a.code() != string(oci.CodeDenied) {
			t.Errorf("%s", a)
		}
		if a := c.get("/v2/quay.io/Wrong/manifests/1"); a.code() != string(oci.CodeNameInvalid) {
			t.Errorf("%s", a)
		}
		if _, err := os.Stat(filepath.Join(h.dir, ".cache", "berth", "blobs")); err != nil {
			t.Errorf("the cache is not in the home folder: %v", err)
		}
		n.stop()
		if fastest < time.Second {
			break
		}
	}
	if fastest >= time.Second {
		t.Errorf("ready after %v", fastest)
	}
	t.Logf("ready after %v", fastest)
}

// A large cache takes no longer, and little memory: also when all of it was
// counted, and foreign files among it.
func TestReadyWithALargeCache(t *testing.T) {
	blobs := 20_000
	if os.Getenv("BERTH_LONG") != "" {
		blobs = 1_000_000
	}
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/nginx", "1", ocitest.Image{Layers: []int64{5000}})
	h.registry("docker.io", hub)
	n := h.build()
	h.nobody(n).mustPull("nginx", image, "")
	n.stop()
	origin := filepath.Dir(filepath.Dir(h.kept(image.Digest.Encoded())[0]))
	h.plant(origin, blobs)
	program(t, berthProgram) // building it is no part of starting it
	begin := time.Now()
	n = h.build()
	h.nobody(n).mustPull("nginx", image, "")
	if took := time.Since(begin); took >= time.Second {
		t.Errorf("with %d blobs the first pull is through after %v", blobs, took)
	}
	for n.sample("berth_cache_objects") < float64(blobs) { // it may take a minute, and patience ends it
		if t.Context().Err() != nil || time.Since(begin) > 2*time.Minute {
			t.Fatalf("%.0f are counted", n.sample("berth_cache_objects"))
		}
	}
	t.Logf("%d are counted after %v", blobs, time.Since(begin))
	n.await("foreign files are told", func() bool { return strings.Contains(n.log.String(), "not the cache's") })
	if foreign := n.sample("berth_cache_foreign_files"); foreign != 2 {
		t.Errorf("%.0f foreign files", foreign)
	}
	if peak, most := n.peakMemory(), int64(128<<20+128*blobs); peak > most {
		t.Errorf("it took %d MiB, want %d at most", peak>>20, most>>20)
	} else {
		t.Logf("it took %d MiB", peak>>20)
	}
}

// plant puts n files with names of blobs into origin, and two with others. They
// are links to a few files: that takes no room.
func (h *home) plant(origin string, n int) {
	h.t.Helper()
	var err error
	source := ""
	for i := 0; i < n && err == nil; i++ {
		if i%50_000 == 0 { // a file has 65,000 names at most
			source = filepath.Join(h.dir, fmt.Sprint("source", i))
			h.write(source, "x")
		}
		folder := filepath.Join(origin, fmt.Sprintf("%02x", i%256))
		if i < 256 {
			err = os.MkdirAll(folder, 0o700)
		}
		if err == nil {
			err = os.Link(source, filepath.Join(folder, fmt.Sprintf("%02x%062x", i%256, i)))
		}
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(filepath.Join(origin, "README"), "x")
	h.write(filepath.Join(origin, "00", "README"), "x")
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	code, stderr := ended(t, []string{"CACHE_DIRECTORY=" + t.TempDir()}, "serve", "--listen", address)
	if code != exitFailed || !strings.Contains(stderr, address+" is in use") || !strings.Contains(stderr, "--listen") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
}

// The default address belongs to registry:2 on many machines.
func TestDefaultAddressInUse(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(defaultConfig); err == nil {
		t.Skipf("there is a %s on this machine", defaultConfig)
	}
	if taken, err := net.Listen("tcp", "127.0.0.1:5000"); err == nil {
		defer taken.Close()
	} // else it is in use already
	code, stderr := ended(t, []string{"CACHE_DIRECTORY=" + t.TempDir()}, "serve")
	if code != exitFailed || !strings.Contains(stderr, "127.0.0.1:5000 is in use") || !strings.Contains(stderr, "--listen") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
}

// Two processes on one cache would each evict what the other counts on.
func TestOneProcessPerCache(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	n := h.run()
	code, stderr := ended(t, nil, "serve", "--config", h.config())
	if code != exitFailed || !strings.Contains(stderr, h.cacheDir()) || !strings.Contains(stderr, "--cache") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	if a := h.nobody(n).get("/v2/"); a.status != http.StatusOK {
		t.Errorf("the first one: %s", a)
	}
	n.kill()
	h.run() // a killed process leaves no lock behind
}

// SIGTERM lets running answers finish and takes no new ones.
func TestStopsInGoodOrder(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	l := newLayer(h, 8<<20)
	gate := l.holdAt(5 << 20)
	n := h.run()
	c := h.nobody(n)
	resp, err := c.send(soon(t), http.MethodGet, l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	begun := make([]byte, 1<<20)
	if _, err := io.ReadFull(resp.Body, begun); err != nil {
		t.Fatal(err)
	}
	if err := n.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitRefused(t, n.doors[openDoor])
	gate.Open()
	p := part{what: "the running answer", status: resp.StatusCode}
	p.size, p.hash, p.err = hashOf(io.MultiReader(bytes.NewReader(begun), resp.Body))
	l.check(t, p, 0)
	n.stop()
}

// awaitRefused waits until nobody listens at url any more.
func awaitRefused(t *testing.T, url string) {
	t.Helper()
	ctx := soon(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it still listens")
		}
	}
}

// A client that takes nothing does not keep berth from ending.
func TestStopsInTime(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			l := newLayer(h, 8<<20)
			l.holdAt(1 << 20)
			n := h.run()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp, err := h.nobody(n).send(ctx, http.MethodGet, l.path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			begin := time.Now()
			if err := n.process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			<-n.ended
			if took := time.Since(begin); n.code != exitOK || took > drainFor+5*time.Second {
				t.Errorf("exit code %d after %v", n.code, took)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Error("the answer seemed to be complete")
			}
		})
	}
}

// Whoever reads the log may stop doing so. Pulls go on, and what was not written
// is counted.
func TestNobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/nginx", "1", ocitest.Image{Layers: []int64{5000}})
	h.registry("docker.io", hub)
	// Addresses that are known beforehand, since there is no log to tell them.
	door := freeAddress(t)
	h.admin = freeAddress(t)
	h.listeners = []string{fmt.Sprintf("{address: %q}", door)}
	path, err := exec.LookPath("berth")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", "--config", h.config())
	unread, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := h.client("http://" + door)
	for ctx := soon(t); c.get("/v2/").status != http.StatusOK; {
		if ctx.Err() != nil {
			t.Fatal("it does not serve")
		}
	}
	for range 6000 { // of 400 bytes each: more than a pipe and the buffer hold
		if a := c.get("/v2/nginx/manifests/1"); a.status != http.StatusOK {
			t.Fatalf("%s", a)
		}
	}
	c.mustPull("nginx", image, "")
	page := (&running{t: t, admin: "http://" + h.admin}).metrics()
	if !regexp.MustCompile(`(?m)^berth_log_dropped_total [1-9]`).MatchString(page) {
		t.Error("no line was dropped, or they are not counted")
	}
	h.transport.CloseIdleConnections()
	begin := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error)
	go func() {
		_, err := cmd.Process.Wait() // not cmd.Wait, which reads the pipe
		stopped <- err
	}()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-soon(t).Done():
		t.Error("it does not end while nobody reads its log")
		_ = cmd.Process.Kill()
	}
	t.Logf("ended after %v", time.Since(begin))
	unread.Close()
}

// freeAddress was free a moment ago. On 127.0.0.1 somebody else's client might connect
// from its port, or to it, before it is used.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
