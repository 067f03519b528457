package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// node is a server on a socket in a folder of its own.
type node struct {
	path string
	log  *logged
	*Client
}

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t *testing.T, o Options) *node {
	t.Helper()
	n := &node{path: filepath.Join(t.TempDir(), "run", "admin.sock"), log: &logged{}}
	o.Logger = slog.New(slog.NewTextHandler(n.log, nil))
	l, err := Listen(t.Context(), n.path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(o)
	var served sync.WaitGroup
	served.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving: %v", err)
		}
	})
	n.Client = NewClient(n.path)
	t.Cleanup(func() {
		n.Close()
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		served.Wait()
	})
	return n
}

func TestOrders(t *testing.T) {
	reload := Reload{
		Main:          &File{Path: "/etc/berth/config.yaml", SHA256: "ab", State: Applied},
		Organisations: []File{{Organisation: "acme", Path: "/etc/berth/organisations.d/acme.yaml", State: Kept, Errors: []string{"acme.yaml:1:1: <odd>"}}},
		NeedsRestart:  []string{"cache.directory"},
		Warnings:      []string{"one"},
	}
	var purged string
	status := Status{Version: "1.2.3", PID: 7, Started: time.Unix(1, 0).UTC(), Listeners: []Listener{{Address: "localhost:5000", Sockets: []string{"127.0.0.1:5000"}}}}
	n := start(t, Options{
		Reload: func(context.Context) (Reload, error) { return reload, nil },
		Purge: func(_ context.Context, r PurgeRequest) (Purge, error) {
			purged = r.Organisation
			return Purge(r), nil
		},
		Status: func(context.Context) (Status, error) { return status, nil },
	})
	if got, err := n.Reload(t.Context()); err != nil || !reflect.DeepEqual(got, reload) {
		t.Errorf("reload: %+v, %v", got, err)
	}
	if got, err := n.Status(t.Context()); err != nil || !reflect.DeepEqual(got, status) {
		t.Errorf("status: %+v, %v", got, err)
	}
	if got, err := n.Purge(t.Context(), PurgeRequest{Organisation: "acme"}); err != nil || got.Organisation != "acme" || purged != "acme" {
		t.Errorf("purge: %+v, %v, the node heard %q", got, err, purged)
	}
	for _, want := range []string{"POST /v1/reload", "POST /v1/purge", "acme", fmt.Sprint("by_user=", os.Geteuid())} {
		if !strings.Contains(n.log.String(), want) {
			t.Errorf("the log does not have %q: %s", want, n.log)
		}
	}
	if strings.Contains(n.log.String(), "status") {
		t.Errorf("to look is no order: %s", n.log)
	}
}

func TestReloadOK(t *testing.T) {
	for _, test := range []struct {
		r    Reload
		want bool
	}{
		{Reload{}, true},
		{Reload{Main: &File{State: Applied}, Organisations: []File{{State: Applied}, {State: Removed}}}, true},
		{Reload{Main: &File{State: Kept}}, false},
		{Reload{Organisations: []File{{State: Applied}, {State: Kept}}}, false},
		{Reload{Organisations: []File{{State: Failed}}}, false},
	} {
		if got := test.r.OK(); got != test.want {
			t.Errorf("%+v: %v", test.r, got)
		}
	}
}

func TestErrors(t *testing.T) {
	n := start(t, Options{
		Reload: func(context.Context) (Reload, error) { return Reload{}, errors.New("the disk is on fire") },
		Purge: func(context.Context, PurgeRequest) (Purge, error) {
			return Purge{}, &Error{Status: http.StatusNotFound, Message: "no such organisation"}
		},
	})
	_, err := n.Reload(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusInternalServerError || e.Message != "the disk is on fire" {
		t.Errorf("reload: %v", err)
	}
	_, err = n.Purge(t.Context(), PurgeRequest{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusNotFound || e.Message != "no such organisation" {
		t.Errorf("purge: %v", err)
	}
	_, err = n.Status(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusNotFound || !strings.Contains(e.Message, "another version") {
		t.Errorf("a route that is not there: %v", err)
	}
	if err := n.do(t.Context(), http.MethodPost, "purge", map[string]string{"image": "x"}, &Purge{}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("an unknown key: %v", err)
	}
	if err := n.do(t.Context(), http.MethodPost, "purge", map[string]string{"organisation": strings.Repeat("x", maxRequest)}, &Purge{}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a large request: %v", err)
	}
	if err := n.do(t.Context(), http.MethodGet, "reload", nil, &Reload{}); err == nil {
		t.Error("a GET gives no orders")
	}
}

func TestFewAtOnce(t *testing.T) {
	hold, inside := make(chan struct{}), make(chan struct{})
	n := start(t, Options{Status: func(context.Context) (Status, error) {
		inside <- struct{}{}
		<-hold
		return Status{}, nil
	}})
	var wg sync.WaitGroup
	for range maxRunning {
		wg.Go(func() {
			c := NewClient(n.path)
			defer c.Close()
			if _, err := c.Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
		<-inside
	}
	_, err := n.Status(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusServiceUnavailable {
		t.Errorf("one too many: %v", err)
	}
	close(hold)
	wg.Wait()
}

func TestSocket(t *testing.T) {
	n := start(t, Options{})
	info, err := os.Lstat(n.path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|socketMode {
		t.Errorf("the socket's mode is %v", info.Mode())
	}
	if dir, err := os.Lstat(filepath.Dir(n.path)); err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("the folder's mode is %v, %v", dir.Mode(), err)
	}
	if _, err := Listen(t.Context(), n.path); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a second one: %v", err)
	}
	if _, err := n.Status(t.Context()); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("the first one is gone: %v", err)
	}
}

func TestSocketLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false) // as a killed process leaves it
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("closing leaves the socket: %v", err)
	}
}

// A process that was asked to end may still be there when the next one has made
// its socket.
func TestSocketOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	old, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other's socket is gone: %v", err)
	}
}

func TestNoSocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
	if _, err := Listen(t.Context(), filepath.Join(file, "admin.sock")); err == nil {
		t.Error("a folder that is none")
	}
	c := NewClient(filepath.Join(dir, "none.sock"))
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
}

func TestPermitted(t *testing.T) {
	own := uint32(os.Geteuid())
	if !permitted(0) || !permitted(own) || permitted(own+1) || permitted(65534) {
		t.Error("root and the own user may, nobody else")
	}
}

// A connection that does not say who it is from gets nothing.
func TestUnknownPeer(t *testing.T) {
	s := NewServer(Options{Status: func(context.Context) (Status, error) { return Status{}, nil }})
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	defer served.Wait()
	defer s.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	w, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if w.StatusCode != http.StatusForbidden {
		t.Errorf("over TCP: %s", w.Status)
	}
}

// asOther makes the test binary a client of another user.
const asOther = "as-other"

// Exit codes of otherUser.
const (
	let = iota
	atTheDoor
	atTheDesk
	elsewhere
)

func otherUser(socket string) int {
	c := NewClient(socket)
	defer c.Close()
	_, err := c.Status(context.Background())
	switch {
	case err == nil:
		return let
	case !errors.Is(err, ErrNotPermitted):
		fmt.Println(err)
		return elsewhere
	}
	if conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket}); err == nil {
		_ = conn.Close()
		return atTheDesk // it connected, and was refused by who it is
	}
	return atTheDoor
}

func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	n := start(t, Options{Status: func(context.Context) (Status, error) { return Status{}, nil }})
	dir, err := os.MkdirTemp("", "berth-admin-") //nolint:usetesting // the folders above t.TempDir are closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "self")
	if err := os.WriteFile(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "admin.sock")
	open := func(path string) {
		t.Helper()
		if err := os.Link(n.path, path); err != nil {
			t.Fatal(err)
		}
	}
	open(socket)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	as := func(uid uint32) int {
		t.Helper()
		c := exec.CommandContext(t.Context(), self, asOther, socket)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := c.CombinedOutput()
		if e, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || e.ExitCode() < 0) {
			t.Fatalf("%v: %s", err, out)
		}
		if len(out) > 0 {
			t.Logf("%d: %s", uid, out)
		}
		return c.ProcessState.ExitCode()
	}
	if got := as(65534); got != atTheDoor {
		t.Errorf("another user came as far as %d", got)
	}
	if got := as(0); got != let {
		t.Errorf("root came as far as %d", got)
	}
	// Even when somebody opens the socket to everyone.
	if err := os.Chmod(n.path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := as(65534); got != atTheDesk {
		t.Errorf("with an open socket another user came as far as %d", got)
	}
	if got := as(0); got != let {
		t.Errorf("with an open socket root came as far as %d", got)
	}
}
