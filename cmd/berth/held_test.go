package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/admin"
	"berth/internal/nodetest"
)

// keeper does what systemd does: it holds sockets, hands them to each berth that
// it starts, and hears from it how it is.
type keeper struct {
	*home
	notices *notices
	names   []string
	sockets []*os.File
	at      []string // addresses
	limits  string   // orders of the shell before it starts
}

// newKeeper has a home whose listeners are those that the test gives it.
func newKeeper(t *testing.T) *keeper {
	t.Helper()
	k := &keeper{home: newHome(t), notices: newNotices(t)}
	k.listeners = nil
	return k
}

// hold opens a socket with a name.
func (k *keeper) hold(name string) (at string) {
	k.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { f.Close() })
	k.names, k.sockets, k.at = append(k.names, name), append(k.sockets, f), append(k.at, l.Addr().String())
	return l.Addr().String()
}

// start starts a berth with the sockets, and waits until it says that it is ready.
func (k *keeper) start(env ...string) *running {
	k.t.Helper()
	n := k.startOn(k.config(), env...)
	k.notices.await(k.t, "READY=1")
	return n
}

func (k *keeper) startOn(config string, env ...string) *running {
	k.t.Helper()
	path, err := exec.LookPath("berth")
	if err != nil {
		k.t.Fatal(err)
	}
	n := &running{t: k.t, log: nodetest.NewLog(), clients: k.transport, ended: make(chan struct{})}
	// Whoever is exec'ed keeps the number of the process, which the variable is about.
	cmd := exec.Command("sh", "-c", k.limits+`LISTEN_PID=$$ exec "$0" "$@"`, path, "serve", "--config", config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+k.notices.name, "LISTEN_FDS="+strconv.Itoa(len(k.sockets)), "LISTEN_FDNAMES="+strings.Join(k.names, ":"))
	// Else the race detector sleeps for a second at the end.
	cmd.Env = append(cmd.Env, append(env, "GORACE=atexit_sleep_ms=0")...)
	cmd.ExtraFiles = k.sockets // from descriptor 3 on
	n.outside(cmd)
	k.t.Cleanup(func() { n.stop() })
	return n
}

// notices is the socket where a service says how it is.
type notices struct {
	name string
	conn *net.UnixConn

	mu      sync.Mutex
	all     []string // and not yet awaited
	changed chan struct{}
}

func newNotices(t *testing.T) *notices {
	t.Helper()
	s := &notices{name: "@berth-test-" + rand.Text(), changed: make(chan struct{})}
	var err error
	if s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.name, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.read()
	}()
	t.Cleanup(func() {
		s.conn.Close()
		<-done
	})
	return s
}

func (s *notices) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := s.conn.Read(b)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.all = append(s.all, string(b[:n]))
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
	}
}

// await waits for a message with this line, and forgets those up to it.
func (s *notices) await(t testing.TB, line string) (message string) {
	t.Helper()
	ctx := soon(t)
	for {
		s.mu.Lock()
		i := slices.IndexFunc(s.all, func(m string) bool { return slices.Contains(strings.Split(m, "\n"), line) })
		if i >= 0 {
			message = s.all[i]
			s.all = s.all[i+1:]
		}
		changed, all := s.changed, slices.Clone(s.all)
		s.mu.Unlock()
		if i >= 0 {
			return message
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("nobody said %s, only %q", line, all)
		}
	}
}

// forget drops what was said so far.
func (s *notices) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = nil
}

// said says whether somebody has said line since the last forget.
func (s *notices) said(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, func(m string) bool { return strings.Contains(m, line) })
}

// A listener takes the sockets that are called as it says, or that have its
// address, whatever they are called. So does the operators' address.
func TestTakesSocketsOfSystemd(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	named, plain, metrics, unused := k.hold("pulls"), k.hold("berth.socket"), k.hold("metrics"), k.hold("mistake")
	k.listeners = []string{"{address: systemd:pulls, callers: token}", fmt.Sprintf("{address: %q}", plain)}
	k.admin = "systemd:metrics"
	n := k.start()
	for at, status := range map[string]int{named: http.StatusUnauthorized, plain: http.StatusOK} {
		if a := k.client("http://" + at).get("/v2/"); a.status != status {
			t.Errorf("at %s: %s", at, a)
		}
	}
	if a := k.client("http://" + metrics).get("/readyz"); a.status != http.StatusOK || string(a.body) != "ok\n" {
		t.Errorf("%s", a)
	}
	if log := n.log.String(); strings.Count(log, "no listener answers on") != 1 || !strings.Contains(log, `"name":"mistake","address":"`+unused+`"`) {
		t.Errorf("the log about the socket that nobody wants:\n%s", log)
	}
	n.stop()

	k.listeners = []string{"{address: systemd:pull}"}
	code := make(chan int)
	n = k.startOn(k.config())
	go func() { <-n.ended; code <- n.code }()
	if got := <-code; got != exitFailed || !strings.Contains(n.log.String(), `no socket named "pull"`) {
		t.Errorf("exit code %d:\n%s", got, n.log)
	}
	n.code = exitOK // as expected
}

// An address that others can reach is refused when it comes by systemd too.
func TestRefusesSocketsOfSystemd(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	l, err := net.Listen("tcp4", "0.0.0.0:0") //nolint:gosec // G102: what is to be refused
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	k.names, k.sockets = []string{"pulls"}, []*os.File{f}
	k.listeners = []string{"{address: systemd:pulls}"}
	n := k.startOn(k.config())
	<-n.ended
	if n.code != exitFailed || !strings.Contains(n.log.String(), "others than this node can reach") {
		t.Errorf("exit code %d:\n%s", n.code, n.log)
	}
	n.code = exitOK // as expected
}

// What systemd hears: when it is ready, when it reads its configuration, when it
// stops; and in one line what an operator should see.
func TestTellsSystemd(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	k := &keeper{home: s.home, notices: newNotices(t)}
	n := k.startOn(s.path("berth.yaml"))
	ready := k.notices.await(t, "READY=1")
	n.awaitAddresses(2)
	if want := "STATUS=Answering pulls on " + strings.TrimPrefix(n.doors[0], "http://") + ", " + strings.TrimPrefix(n.doors[1], "http://") + " ("; !strings.Contains(ready, want) {
		t.Errorf("%q has no %q", ready, want)
	}
	before := monotonic(t)
	s.reload(exitOK)
	m := k.notices.await(t, "RELOADING=1")
	_, at, _ := strings.Cut(m, "MONOTONIC_USEC=")
	at, _, _ = strings.Cut(at, "\n")
	if when, err := strconv.ParseInt(at, 10, 64); err != nil || when < before || when > monotonic(t) {
		t.Errorf("%q is not of between %d and now", m, before)
	}
	k.notices.await(t, "READY=1")

	s.put("berth.yaml", "listen: 5000\n")
	if err := n.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	k.notices.await(t, "RELOADING=1")
	if m := k.notices.await(t, "READY=1"); !strings.Contains(m, "the main file cannot be used") {
		t.Errorf("after a bad reload: %q", m)
	}
	k.notices.forget()
	n.stop()
	if m := k.notices.await(t, "STOPPING=1"); !strings.Contains(m, "STATUS=Finishing running pulls") {
		t.Errorf("%q", m)
	}
	if k.notices.said("READY=1") {
		t.Error("it is ready after it stopped")
	}
}

// monotonic is CLOCK_MONOTONIC in microseconds.
func monotonic(t testing.TB) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

// The watchdog hears from it for as long as pulls are answered, and only so.
func TestServesTheWatchdog(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	k := &keeper{home: s.home, notices: newNotices(t)}
	n := k.startOn(s.path("berth.yaml"), "WATCHDOG_USEC=150000")
	for range 3 {
		k.notices.await(t, "WATCHDOG=1")
	}
	n.awaitAddresses(2)
	if got := s.command("status", "--ready"); got.code != exitOK || got.out+got.err != "" {
		t.Errorf("%+v", got)
	}
	// Without a descriptor to spare no connection can be accepted.
	var was unix.Rlimit
	if err := unix.Prlimit(n.process.Pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(n.process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	n.await("the pulse is gone", func() bool { return strings.Contains(n.log.String(), "pulls are not answered") })
	k.notices.forget()
	seen := strings.Count(n.log.String(), "pulls are not answered")
	n.await("it stays so", func() bool { return strings.Count(n.log.String(), "pulls are not answered") > seen+2 })
	if k.notices.said("WATCHDOG=1") {
		t.Error("the watchdog was told that all is well")
	}
	if err := unix.Prlimit(n.process.Pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
		t.Fatal(err)
	}
	k.notices.await(t, "WATCHDOG=1")
	if got := s.command("status", "--ready"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	n.stop()
	if got := s.command("status", "--ready"); got.code != exitFailed || !strings.Contains(got.err, admin.ErrNotRunning.Error()) {
		t.Errorf("%+v", got)
	}
}

// A connection in reserve, on which nothing was asked, is not waited for.
func TestStopsWithConnectionsInReserve(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	n := h.run()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.doors[openDoor], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if a := h.nobody(n).get("/v2/"); a.status != http.StatusOK { // accepted later than the first
		t.Fatalf("%s", a)
	}
	begin := time.Now()
	n.stop()
	if took := time.Since(begin); took > greetFor+2*time.Second {
		t.Errorf("it took %v", took)
	}
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the connection gave %d bytes, %v", n, err)
	}
}
