//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	startLimit = 60 * time.Second // a loaded machine with cold disks
	stopLimit  = 30 * time.Second
	logTail    = 6 << 10 // bytes of a daemon's log that a failed test shows
)

// daemon is a program that runs beside a test, in its own process group, with
// its output in a file.
type daemon struct {
	name   string
	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed once the program is gone
	err    error         // why; to be read after exited is closed
}

// daemonOptions says what to start and when it counts as started.
type daemonOptions struct {
	name  string
	path  string
	args  []string
	dir   string // temporary; also its HOME
	env   []string
	ready func(context.Context) error
	quiet bool       // its log says nothing about a failed test
	files []*os.File // that it inherits, from descriptor 3 on
}

// startDaemon starts a program and waits until it is ready; it is stopped, and
// its log shown if the test failed, when the test ends.
func startDaemon(t *testing.T, o daemonOptions) *daemon {
	t.Helper()
	d, err := tryDaemon(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tryDaemon is startDaemon for a program that may refuse to run here.
func tryDaemon(t *testing.T, o daemonOptions) (*daemon, error) {
	t.Helper()
	d := &daemon{name: o.name, dir: o.dir, exited: make(chan struct{})}
	out, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()

	d.cmd = exec.Command(o.path, o.args...) // without a context: stop ends it
	d.cmd.Env = environment(o.dir, o.env...)
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.ExtraFiles = o.files
	// Its own group, so that stop reaches what it started; and not beyond the
	// life of this process, whatever ends that.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", o.name, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() && !o.quiet {
			t.Logf("the end of what %s wrote:\n%s", d.name, d.tail())
		}
	})
	if err := d.await(t.Context(), o.ready); err != nil {
		d.stop(t)
		return nil, fmt.Errorf("%s: %w\n%s", o.name, err, d.tail())
	}
	return d, nil
}

func (d *daemon) logFile() string { return filepath.Join(d.dir, d.name+".log") }

// await asks until the daemon is ready, has died, or has had its time.
func (d *daemon) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-d.exited:
			return fmt.Errorf("exited before it was ready: %w", errors.Join(d.err, err))
		case <-ctx.Done():
			return fmt.Errorf("not ready within %v: %w", startLimit, err)
		case <-tick.C:
		}
	}
}

// stop asks the daemon to end, waits for it, and clears up what it left: its
// group, and the mounts under its folder. It may be called again.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	pid := d.cmd.Process.Pid
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(stopLimit):
		t.Errorf("%s did not end within %v of SIGTERM", d.name, stopLimit)
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-d.exited
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // stragglers; usually there are none
	unmountBelow(t, d.dir)
}

// kill ends the daemon as a crash would.
func (d *daemon) kill() {
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.exited
}

func (d *daemon) tail() string {
	text, err := os.ReadFile(d.logFile())
	if err != nil {
		return err.Error()
	}
	if len(text) > logTail {
		text = append([]byte("[...]"), text[len(text)-logTail:]...)
	}
	return string(text)
}

// unmountBelow takes away every mount under dir, innermost first.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Errorf("reading the mounts: %v", err)
		return
	}
	var points []string
	for line := range bytes.Lines(table) {
		if f := strings.Fields(string(line)); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	for _, point := range slices.Backward(points) { // the table is in the order of mounting
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", point, err)
		}
	}
}

// answers is ready once a GET of url gets one of these statuses.
func answers(url string, statuses ...int) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if slices.Contains(statuses, resp.StatusCode) {
			return nil
		}
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
}

// accepts is ready once the UNIX socket takes connections.
func accepts(socket string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// nextPort gives every caller another one, below those that the kernel hands to
// outgoing connections: a client of this very test could take one of them in
// the moment between asking and listening.
var nextPort = func() func() int {
	var given atomic.Int32
	from := 20000 + os.Getpid()%10000
	return func() int { return from + int(given.Add(1)) }
}()

// freeAddress is a loopback address that nobody listens on, and that is given
// to no other caller.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", nextPort()))
		if err != nil {
			continue
		}
		_ = l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// run runs a program to its end; the error carries what it wrote to stderr.
func run(t *testing.T, home string, env []string, path string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment(home, env...)
	cmd.Dir = home
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", filepath.Base(path), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// writeFile writes a file that only its owner can read, with its folders.
func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tempDir is like t.TempDir with a short path: a UNIX socket's name has 108
// bytes at most.
func tempDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "be-"+name) //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clearing up: %v", err)
		}
	})
	return dir
}
