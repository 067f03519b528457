package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/ocitest/engines"
	"berth/oci"
)

// aloneEnv names the test that a process was started for.
const aloneEnv = "BERTH_TEST_ALONE"

// alone runs the test once more, in a process with a network and mounts of its own, where
// it may do with addresses what it likes, and says whether this is that run.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	skip := t.Skip
	if os.Getenv(engines.Required) != "" {
		skip = t.Fatal
	}
	if os.Getuid() != 0 {
		skip("only root makes network namespaces")
	}
	for _, tool := range []string{"unshare", "ip", "tc", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in namespaces of its own: %v", err)
	}
	return false
}

// lan is a network of namespaces, each with a link of its own to a bridge in this one. It
// is for tests that run alone.
type lan struct {
	t    *testing.T
	here int // this namespace
}

// lanHost is this process's address there.
const lanHost = "10.77.0.1"

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{t: t}
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	l.here = int(own.Fd())
	l.sh(`ip link set lo up
mount -t tmpfs tmpfs /run
ip link add bridge type bridge
ip addr add %s/16 dev bridge
ip link set bridge up`, lanHost)
	return l
}

func (l *lan) sh(script string, args ...any) {
	l.t.Helper()
	if out, err := exec.CommandContext(l.t.Context(), "sh", "-euc", fmt.Sprintf(script, args...)).CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
}

// add makes a namespace of that name and address, with a link of so many bytes a second in
// each direction.
func (l *lan) add(name, address string, rate int) {
	l.t.Helper()
	l.sh(`ip netns add %[1]s
ip link add %[1]s type veth peer name eth0 netns %[1]s
ip link set %[1]s master bridge up
ip -n %[1]s addr add %[2]s/16 dev eth0
ip -n %[1]s link set lo up
ip -n %[1]s link set eth0 up
tc qdisc add dev %[1]s root tbf rate %[3]dbps burst 256kb latency 100ms
tc -n %[1]s qdisc add dev eth0 root tbf rate %[3]dbps burst 256kb latency 100ms`, name, address, rate)
}

// in runs f in the namespace of that name: what it starts, listens on and dials is there.
func (l *lan) in(name string, f func()) {
	l.t.Helper()
	there, err := os.Open(filepath.Join("/run/netns", name))
	if err != nil {
		l.t.Fatal(err)
	}
	defer there.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		l.t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(l.here, unix.CLONE_NEWNET); err == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}()
	f()
}

// dialer dials from the namespace of that name.
func (l *lan) dialer(name string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (c net.Conn, err error) {
		l.in(name, func() { c, err = new(net.Dialer).DialContext(ctx, network, address) })
		return c, err
	}
}

// lead makes an address in the namespace of that name lead to a server of this process.
func (l *lan) lead(name, address, target string) {
	l.t.Helper()
	var listener net.Listener
	var err error
	l.in(name, func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go join(near, target)
		}
	}()
}

// join copies between near and a new connection to target until either ends.
func join(near net.Conn, target string) {
	defer near.Close()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		defer near.Close()
		defer far.Close()
		_, _ = io.Copy(far, near) // it ends as connections end
	}()
	_, _ = io.Copy(near, far) // likewise
}

// drain pulls an image as container engines do, all blobs at once, and keeps nothing of
// it: berth verifies what it sends.
func (c *client) drain(name, tag string) error {
	at := func(kind, ref string) string { return "/v2/" + name + "/" + kind + "/" + ref }
	head := c.head(at("manifests", tag))
	if head.status != http.StatusOK {
		return errors.New(head.String())
	}
	m, err := c.manifest(at, oci.Digest(head.header.Get("Docker-Content-Digest")))
	if err != nil {
		return err
	}
	errs := make(chan error)
	blobs := append(m.Layers, m.Config)
	for _, d := range blobs {
		go func() {
			resp, err := c.send(context.WithoutCancel(c.t.Context()), http.MethodGet, at("blobs", d.Digest.String()))
			if err != nil {
				errs <- err
				return
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil && (resp.StatusCode != http.StatusOK || n != d.Size) {
				err = fmt.Errorf("%s: %s, %d bytes of %d", d.Digest, resp.Status, n, d.Size)
			}
			errs <- err
		}()
	}
	for range blobs {
		if one := <-errs; one != nil && err == nil {
			err = one
		}
	}
	return err
}
