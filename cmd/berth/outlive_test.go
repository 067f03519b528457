package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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

	"golang.org/x/sys/unix"

	"berth/internal/nodetest"
	"berth/internal/ocitest"
)

// mute is a berth whose log the test does not read, at addresses that are known
// beforehand.
type mute struct {
	*running
	*home
	client *client
	image  ocitest.Pushed
	layer  layer
}

// newMute prepares everything but the process.
func newMute(t *testing.T) *mute {
	t.Helper()
	h := newHome(t)
	m := &mute{home: h, layer: newLayer(h, 8<<20)}
	m.image = m.layer.hub.AddImage("library/nginx", "1", ocitest.Image{Layers: []int64{5000}})
	door := ownAddress(t)
	h.admin = ownAddress(t)
	h.listeners = []string{fmt.Sprintf("{address: %q}", door)}
	m.client = h.client("http://" + door)
	m.running = &running{t: t, log: nodetest.NewLog(), clients: h.transport, ended: make(chan struct{}), admin: "http://" + h.admin}
	return m
}

// ownAddress is a loopback address that no other test takes before it is listened at.
func ownAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(200), rand.N(250), 1+rand.N(250)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// command is the program, to be given a standard output and error.
func (m *mute) command() *exec.Cmd {
	m.home.t.Helper()
	path, err := exec.LookPath("berth")
	if err != nil {
		m.home.t.Fatal(err)
	}
	return exec.Command(path, "serve", "--config", m.config())
}

// begin starts cmd, which is the program or becomes it, and waits until it serves.
func (m *mute) begin(cmd *exec.Cmd) {
	t := m.home.t
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = cmd.Process
	m.quit = func() { _ = m.process.Signal(syscall.SIGTERM) } // it may have ended
	go func() {
		defer close(m.ended)
		_ = cmd.Wait() // the exit code says it
		m.code = cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(m.stop)
	for ctx := soon(t); ; {
		resp, err := m.client.send(ctx, http.MethodGet, "/v2/")
		if err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-m.ended:
			t.Fatalf("it ended with %d before it served", m.code)
		case <-ctx.Done():
			t.Fatal("it does not serve")
		default:
		}
	}
}

// lost waits until lines of the log are counted as lost.
func (m *mute) lost() {
	m.home.t.Helper()
	for ctx := soon(m.home.t); !regexp.MustCompile(`(?m)^berth_log_dropped_total [1-9]`).MatchString(m.metrics()); {
		if ctx.Err() != nil {
			m.home.t.Fatal("lines were lost, and they are not counted")
		}
	}
}

// terminal is a pseudo terminal. Whoever closes its master makes it hang up.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	// Not by master.Fd, which would make it block: a read under way would then keep
	// the terminal open when the test closes it.
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var failed error
	err = raw.Control(func(fd uintptr) {
		if number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); failed == nil {
			failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
	})
	if err == nil {
		err = failed
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// Whatever becomes of what standard output and error lead to, at the start or in the
// middle of a layer: that layer arrives, so does every later pull, and the lines that
// nobody gets are counted.
func TestLog_EndsInEveryWay(t *testing.T) {
	t.Parallel()
	pair := func(t *testing.T) (ours, theirs *os.File) {
		t.Helper()
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) // as journald's
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	}
	pipe := func(t *testing.T) (ours, theirs *os.File) {
		t.Helper()
		ours, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return ours, theirs
	}
	for name, open := range map[string]func(*testing.T) (ours, theirs *os.File){"pipe": pipe, "socket": pair, "terminal": terminal} {
		for _, when := range []string{"at the start", "later"} {
			t.Run(name+" ends "+when, func(t *testing.T) {
				t.Parallel()
				m := newMute(t)
				ours, theirs := open(t)
				defer ours.Close()
				cmd := m.command()
				cmd.Stdout, cmd.Stderr = theirs, theirs
				if when == "at the start" {
					ours.Close()
				} else {
					go func() { _, _ = io.Copy(io.Discard, ours) }() // it reads until it is closed
				}
				m.begin(cmd)
				theirs.Close()
				m.pullsThrough(t, func() { ours.Close() })
			})
		}
	}
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		m := newMute(t)
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		cmd := m.command()
		cmd.Stdout, cmd.Stderr = full, full
		m.begin(cmd)
		m.pullsThrough(t, func() {})
	})
}

// pullsThrough pulls a layer in the middle of which end is called, and an image.
func (m *mute) pullsThrough(t *testing.T, end func()) {
	t.Helper()
	gate := m.layer.holdAt(5 << 20)
	resp, err := m.client.send(soon(t), http.MethodGet, m.layer.path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	begun := make([]byte, 1<<20)
	if _, err := io.ReadFull(resp.Body, begun); err != nil {
		t.Fatal(err)
	}
	end()
	for range 3 { // lines that nobody gets
		if a := m.client.get("/v2/nginx/manifests/1"); a.status != http.StatusOK {
			t.Errorf("while a layer is under way: %s", a)
		}
	}
	m.lost()
	gate.Open()
	p := part{what: "the layer", status: resp.StatusCode}
	p.size, p.hash, p.err = hashOf(io.MultiReader(strings.NewReader(string(begun)), resp.Body))
	m.layer.check(t, p, 0)
	m.client.mustPull("nginx", m.image, "")
	m.lost()
}

// Descriptors 0, 1 and 2 may be closed at the start. Then nothing else may get these
// numbers: the log would be written into a blob, or to a client.
func TestLog_StandardDescriptorsClosed(t *testing.T) {
	t.Parallel()
	for _, closed := range []string{"0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"} {
		t.Run(closed, func(t *testing.T) {
			t.Parallel()
			m := newMute(t)
			program := m.command()
			cmd := exec.Command("sh", append([]string{"-c", `exec "$0" "$@" ` + closed}, program.Args...)...)
			cmd.Args[3] = program.Path
			m.begin(cmd)
			m.client.mustPull("nginx", m.image, "")
			for number := range 3 {
				to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", m.process.Pid, number))
				if err != nil {
					t.Error(err)
				} else if to != os.DevNull {
					t.Errorf("descriptor %d is %s", number, to)
				}
			}
			for _, f := range m.files() {
				content, err := os.ReadFile(f)
				if errors.Is(err, fs.ErrNotExist) {
					continue // published or dropped meanwhile
				}
				if err != nil || strings.Contains(string(content), "answering pulls") {
					t.Errorf("the log is in %s, or %v", filepath.Base(f), err)
				}
			}
		})
	}
}

// A signal that is no order to serve does nothing.
func TestSignals_NotOurs(t *testing.T) {
	t.Parallel()
	m := newMute(t)
	m.begin(m.command())
	for _, s := range []syscall.Signal{
		syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGPROF,
		syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGIO, syscall.SIGPWR, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGURG,
		syscall.SIGWINCH, syscall.SIGCHLD, syscall.SIGCONT, syscall.Signal(40),
	} {
		if err := m.process.Signal(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		m.client.mustPull("nginx", m.image, "")
	}
	m.lives(t)
}

// lives says that the process has not ended, and stands for nothing.
func (m *mute) lives(t *testing.T) {
	t.Helper()
	select {
	case <-m.ended:
		t.Errorf("it ended with %d", m.code)
	default:
	}
}

// Without a configuration file there is nothing to read again: SIGHUP, which a
// terminal sends when it closes, does nothing.
func TestSignals_HangUpWithoutAFile(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(defaultConfig); err == nil {
		t.Skipf("there is a %s on this machine", defaultConfig)
	}
	h := newHome(t)
	n := &running{t: t, log: nodetest.NewLog(), clients: h.transport, ended: make(chan struct{})}
	path, err := exec.LookPath("berth")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "CACHE_DIRECTORY=", "XDG_CACHE_HOME=", "HOME="+h.dir)
	n.outside(cmd)
	t.Cleanup(n.stop)
	n.await("it serves", func() bool { return answering.MatchString(n.log.String()) })
	for range 3 {
		if err := n.process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	n.await("it read again what there is", func() bool { return strings.Contains(n.log.String(), "the configuration was read again") })
	if a := h.client("http://" + answering.FindStringSubmatch(n.log.String())[1]).get("/v2/"); a.status != http.StatusOK {
		t.Errorf("%s", a)
	}
}

// In the background of a terminal that stops those who write to it, berth goes on;
// it goes on too when the terminal closes.
func TestSignals_BackgroundOfATerminal(t *testing.T) {
	t.Parallel()
	m := newMute(t)
	master, slave := terminal(t)
	modes, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	modes.Lflag |= unix.TOSTOP
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, modes); err != nil {
		t.Fatal(err)
	}
	shown := nodetest.NewLog()
	go func() { _, _ = io.Copy(shown, master) }() // until it is closed
	number, pid, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer number.Close()
	program := m.command()
	// With -m the shell gives the job a process group of its own, in the background.
	shell := exec.Command("sh", append([]string{"-m", "-c", `trap "" HUP; "$0" "$@" 3>&- & echo $! >&3; exec 3>&-; wait $!`}, program.Args...)...)
	shell.Args[4] = program.Path
	shell.Stdin, shell.Stdout, shell.Stderr, shell.ExtraFiles = slave, slave, slave, []*os.File{pid}
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	m.begin(shell)
	pid.Close()
	slave.Close()
	var job int
	if _, err := fmt.Fscan(number, &job); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(job, syscall.SIGKILL) })
	if m.process, err = os.FindProcess(job); err != nil {
		t.Fatal(err)
	}
	m.client.mustPull("nginx", m.image, "")
	for ctx := soon(t); !strings.Contains(shown.String(), "request_id"); { // a request's line: written while it serves
		select {
		case <-shown.Changes():
		case <-ctx.Done():
			t.Fatalf("the terminal shows\n%s", shown)
		}
	}
	m.client.mustPull("nginx", m.image, "")
	master.Close()
	for range 3 {
		m.client.mustPull("nginx", m.image, "")
	}
	m.lost()
	m.quit()
	<-m.ended
	m.code = exitOK // it is the shell's, which has lost its terminal
}
