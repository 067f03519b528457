package golden

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/internal/nodetest"
)

// programs is the folder of what is built here.
var programs = filepath.Join(os.TempDir(), fmt.Sprintf("berth-golden-%d", os.Getpid()))

// berth is the program as people build it: without the race detector, whose
// allocations are not theirs.
var berth = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "berth")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/berth").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building berth: %w\n%s", err, out)
	}
	return path, nil
})

func program(t *testing.T) string {
	t.Helper()
	path, err := berth()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// patience is how long a test waits for what happens soon, on a machine that is busy.
const patience = 60 * time.Second

// command runs a command of berth to its end.
func command(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, program(t), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), complaints.String()
}

// node is a berth that serves.
type node struct {
	t     *testing.T
	file  string // its configuration
	doors []string
	admin string
	log   *nodetest.Log
	cmd   *exec.Cmd
	ended chan struct{}
	http  *http.Client
}

// serve starts berth with a configuration that logs JSON and has an admin address;
// under, if any, are the words of a program that runs it.
func serve(t *testing.T, config string, doors int, env []string, under ...string) *node {
	t.Helper()
	n := &node{t: t, file: filepath.Join(t.TempDir(), "berth.yaml"), log: nodetest.NewLog(), ended: make(chan struct{})}
	write(t, n.file, config)
	words := append(under, program(t), "serve", "--config", n.file)
	n.cmd = exec.Command(words[0], words[1:]...)
	n.cmd.Env = append(os.Environ(), env...)
	n.cmd.Stderr = n.log
	n.http = &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(n.ended)
		_ = n.cmd.Wait() // stop looks at the state
	}()
	t.Cleanup(n.stop)
	n.doors, n.admin = n.log.AwaitAddresses(t, n.ended, doors)
	return n
}

// stop ends it in good order.
func (n *node) stop() {
	n.http.CloseIdleConnections()
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-n.ended:
	case <-time.After(patience):
		_ = n.cmd.Process.Kill()
		n.t.Errorf("berth does not stop:\n%s", n.log)
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("berth ended with %d:\n%s", code, n.log)
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // the body did not end well
}

// ask sends one request and reads the whole answer. header are names and values;
// "user" and "password" are a login.
func (n *node) ask(method, url string, header ...string) answer {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("User-Agent", "docker/29.0.1 go/go1.26 kernel/6.1 os/linux arch/amd64")
	for i := 0; i+1 < len(header); i += 2 {
		switch header[i] {
		case "Host":
			req.Host = header[i+1]
		case "login":
			user, password, _ := strings.Cut(header[i+1], ":")
			req.SetBasicAuth(user, password)
		default:
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := n.http.Do(req)
	if err != nil {
		n.t.Fatalf("%v\n%s", err, n.log)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	a.body, a.err = io.ReadAll(resp.Body)
	return a
}

// must is ask for what has to be there.
func (n *node) must(method, url string, header ...string) answer {
	n.t.Helper()
	a := n.ask(method, url, header...)
	if a.err != nil || a.status != http.StatusOK {
		n.t.Fatalf("%s %s: %d, %v: %.300s\n%s", method, url, a.status, a.err, a.body, n.log)
	}
	return a
}

// pull gets an image of linux/amd64 as dockerd does: HEAD by tag, the manifests by
// digest, then the blobs, one after the other.
func (n *node) pull(door, name, tag string, header ...string) {
	n.t.Helper()
	at := door + "/v2/" + name
	n.must(http.MethodGet, door+"/v2/", header...)
	digest := n.must(http.MethodHead, at+"/manifests/"+tag, header...).header.Get("Docker-Content-Digest")
	var doc struct {
		Manifests []struct {
			Digest   string
			Platform struct{ Architecture string }
		}
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	read := func(digest string) {
		if err := json.Unmarshal(n.must(http.MethodGet, at+"/manifests/"+digest, header...).body, &doc); err != nil {
			n.t.Fatal(err)
		}
	}
	read(digest)
	for _, m := range doc.Manifests {
		if m.Platform.Architecture == "amd64" {
			read(m.Digest)
		}
	}
	n.must(http.MethodGet, at+"/blobs/"+doc.Config.Digest, header...)
	for _, l := range doc.Layers {
		n.must(http.MethodGet, at+"/blobs/"+l.Digest, header...)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
