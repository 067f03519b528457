package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/hung"
	"berth/internal/nodetest"
)

// How long a stop takes at most: for running answers, and for connections on which
// nothing was asked yet.
const (
	drainFor = 10 * time.Second
	greetFor = time.Second
)

// running is a berth that serves.
type running struct {
	t   testing.TB
	log *nodetest.Log
	// doors and admin are base URLs, the doors in the order of the listeners in
	// the configuration.
	doors []string
	admin string
	// process is nil when it runs in the test's own.
	process *os.Process

	hung    *hung.Table // of one in this process; may be nil
	clients *http.Transport
	quit    func()
	ended   chan struct{} // closed at its end, when code is known
	code    int
}

// serve starts a berth in this process, with the home's clock.
func (h *home) serve() *running {
	h.t.Helper()
	return h.start(nil)
}

// run starts a berth as a program: the test binary, so that it has the race
// detector where the test has it.
func (h *home) run(env ...string) *running {
	h.t.Helper()
	path, err := exec.LookPath("berth")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.start(exec.Command(path), env...)
}

// build starts the program as people build it, so that what it takes of memory
// and time is its own.
func (h *home) build() *running {
	h.t.Helper()
	return h.start(exec.Command(program(h.t, berthProgram)))
}

func (h *home) start(cmd *exec.Cmd, env ...string) *running {
	h.t.Helper()
	n := &running{t: h.t, log: nodetest.NewLog(), clients: h.transport, ended: make(chan struct{})}
	args := []string{"serve", "--config", h.config()}
	if cmd == nil {
		n.inside(args, h.clock)
	} else {
		cmd.Args = append(cmd.Args, args...)
		cmd.Env = append(os.Environ(), env...)
		n.outside(cmd)
	}
	h.t.Cleanup(func() { n.stop() })
	n.awaitAddresses(len(h.listeners))
	return n
}

func (n *running) inside(args []string, c *clock) {
	ctx, cancel := context.WithCancel(context.Background())
	n.quit = cancel
	go func() {
		defer close(n.ended)
		n.code = (&options{now: c.now, hung: n.hung}).run(ctx, args, io.Discard, n.log)
	}()
}

func (n *running) outside(cmd *exec.Cmd) {
	n.t.Helper()
	cmd.Stderr = n.log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.process = cmd.Process
	n.quit = func() { _ = n.process.Signal(syscall.SIGTERM) } // it may have ended
	go func() {
		defer close(n.ended)
		_ = cmd.Wait() // the exit code says it
		n.code = cmd.ProcessState.ExitCode()
	}()
}

// awaitAddresses learns from the log where it listens.
func (n *running) awaitAddresses(listeners int) {
	n.t.Helper()
	n.doors, n.admin = n.log.AwaitAddresses(n.t, n.ended, listeners)
}

// await waits until the log shows what, at the latest when berth has ended.
func (n *running) await(what string, ok func() bool) {
	n.t.Helper()
	n.log.Await(n.t, n.ended, what, ok)
}

// stop ends it in good order, and holds it to that: whoever stops it expects
// exit code 0, no panic and no data race.
func (n *running) stop() {
	n.t.Helper()
	// A server waits five seconds for the first request on a new connection, and
	// http.Transport likes to have one in reserve.
	n.clients.CloseIdleConnections()
	n.quit()
	select {
	case <-n.ended:
	case <-soon(n.t).Done():
		n.t.Fatalf("berth does not stop:\n%s", n.log)
	}
	if n.t.Failed() {
		n.t.Logf("what berth says:\n%s", n.troubles())
	}
	if n.code != exitOK {
		n.t.Errorf("berth ended with %d:\n%s", n.code, n.log)
	}
	for _, bad := range []string{"panic", "DATA RACE", "goroutine "} {
		if strings.Contains(n.log.String(), bad) {
			n.t.Errorf("%q in the log of berth:\n%s", bad, n.log)
		}
	}
}

// troubles are the log lines about what went wrong.
func (n *running) troubles() string {
	var b strings.Builder
	for line := range strings.Lines(n.log.String()) {
		if strings.Contains(line, `"class":`) || strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// kill ends it as a crash does.
func (n *running) kill() {
	n.t.Helper()
	if err := n.process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	<-n.ended
	n.quit = func() {}
	n.code = exitOK // what a killed program exits with says nothing
}

// peakMemory is the most memory that the process ever had, in bytes.
func (n *running) peakMemory() int64 {
	n.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			size, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return size << 10
		}
	}
	n.t.Fatalf("no VmHWM in\n%s", status)
	return 0
}

// metrics is the whole page.
func (n *running) metrics() string {
	n.t.Helper()
	resp, err := http.Get(n.admin + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatalf("metrics: %d, %v", resp.StatusCode, err)
	}
	return string(page)
}
