// Package engines starts the fleet's real engines for tests: redis-server, and
// versitygw as an S3 bucket on a folder.
package engines

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Required is the environment variable under which a missing engine fails a test
// instead of skipping it.
const Required = "BERTH_ENGINES_REQUIRED"

const startLimit = 20 * time.Second

// engine is one program that listens on a port of loopback.
type engine struct {
	tb   testing.TB
	cmd  *exec.Cmd
	addr string
	make func(addr string) *exec.Cmd
	gone chan struct{} // it has ended
	log  strings.Builder
}

// program is where the engine is, or the end of the test.
func program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv(Required) != "" {
			tb.Fatalf("%s is not installed, and %s is set", name, Required)
		}
		tb.Skipf("%s is not installed", name)
	}
	return path
}

// loopback is where engines listen, unless a test has addresses of its own.
const loopback = "127.0.0.1"

// begin starts the engine on a free port of host. Another process may take that between
// the look and the start, so it is tried again.
func begin(tb testing.TB, host string, command func(addr string) *exec.Cmd) *engine {
	tb.Helper()
	e := &engine{tb: tb, make: command}
	tb.Cleanup(e.Stop)
	for range 5 {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			tb.Fatal(err)
		}
		e.addr = l.Addr().String()
		l.Close()
		if err = e.start(); err == nil {
			return e
		}
		tb.Logf("starting on %s: %v", e.addr, err)
	}
	tb.Fatalf("it does not start: %s", e.log.String())
	return nil
}

func (e *engine) start() error {
	e.cmd = e.make(e.addr)
	e.cmd.Stdout, e.cmd.Stderr = &e.log, &e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	cmd, gone := e.cmd, make(chan struct{})
	e.gone = gone
	go func() { _ = cmd.Wait(); close(gone) }() // how it ended is nobody's business
	for end := time.Now().Add(startLimit); time.Now().Before(end); {
		c, err := net.DialTimeout("tcp", e.addr, time.Second)
		if err == nil {
			c.Close()
			return nil
		}
		select {
		case <-gone:
			e.cmd = nil
			return errors.New("it ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	e.Stop()
	return fmt.Errorf("it listens not within %v", startLimit)
}

// Stop kills the engine. What it kept in memory is lost.
func (e *engine) Stop() {
	if e.cmd != nil {
		_ = e.cmd.Process.Kill()
		<-e.gone
		e.cmd = nil
	}
}

// Start starts a stopped engine again, at the same address.
func (e *engine) Start() {
	e.tb.Helper()
	if err := e.start(); err != nil {
		e.tb.Fatal(err)
	}
}

// Freeze stops its process where it is; connections stay open and nothing answers.
func (e *engine) Freeze() { _ = e.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen one go on.
func (e *engine) Thaw() { _ = e.cmd.Process.Signal(syscall.SIGCONT) }

// Redis is a redis-server.
type Redis struct {
	*engine
	// Addr is host:port.
	Addr string
	cli  string
}

// AdminPassword is the password of the user "default" of a Redis.
const AdminPassword = "admin-of-this-test"

// StartRedis starts one that lasts as long as the test. Beside its administrator it
// knows the users of these lines, written as in an ACL file.
func StartRedis(tb testing.TB, users ...string) *Redis {
	tb.Helper()
	return StartRedisAt(tb, loopback, users...)
}

// StartRedisAt is StartRedis at another address of this machine.
func StartRedisAt(tb testing.TB, host string, users ...string) *Redis {
	tb.Helper()
	server, cli := program(tb, "redis-server"), program(tb, "redis-cli")
	acl := filepath.Join(tb.TempDir(), "users.acl")
	lines := append([]string{"user default on >" + AdminPassword + " ~* &* +@all"}, users...)
	if err := os.WriteFile(acl, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	e := begin(tb, host, func(addr string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(addr)
		return exec.Command(server, "--bind", //nolint:gosec // G204: the engine under test
			host, "--port", port, "--save", "", "--appendonly", "no", "--aclfile", acl,
			"--dir", filepath.Dir(acl), "--proto-max-bulk-len", "1mb")
	})
	return &Redis{engine: e, Addr: e.addr, cli: cli}
}

// Do runs a command as the administrator.
func (r *Redis) Do(args ...string) string {
	r.tb.Helper()
	host, port, _ := net.SplitHostPort(r.Addr)
	cmd := exec.Command(r.cli, append([]string{"-h", host, "-p", port, "--no-auth-warning", "-a", AdminPassword}, args...)...) //nolint:gosec // G204: likewise
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.tb.Fatalf("redis-cli %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// S3 is a versitygw with one bucket.
type S3 struct {
	*engine
	Endpoint          *url.URL
	Bucket            string
	AccessKey, Secret string
	// Dir is where the bucket's objects lie as files.
	Dir string
}

// StartS3 starts one that lasts as long as the test.
func StartS3(tb testing.TB) *S3 {
	tb.Helper()
	return StartS3At(tb, loopback)
}

// StartS3At is StartS3 at another address of this machine.
func StartS3At(tb testing.TB, host string) *S3 {
	tb.Helper()
	gateway := program(tb, "versitygw")
	root, s := tb.TempDir(), &S3{Bucket: "fleet", AccessKey: "AKIATEST", Secret: "s3-secret-of-this-test"} //nolint:gosec // G101: made up
	s.Dir = filepath.Join(root, "data", s.Bucket)
	for _, dir := range []string{s.Dir, filepath.Join(root, "meta")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	s.engine = begin(tb, host, func(addr string) *exec.Cmd {
		cmd := exec.Command(gateway, "--port", addr, "--quiet", "--keep-alive", "posix", "--sidecar", filepath.Join(root, "meta"), filepath.Join(root, "data")) //nolint:gosec // G204: likewise
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.Secret)
		return cmd
	})
	s.Endpoint = &url.URL{Scheme: "http", Host: s.addr}
	return s
}

// Objects are the keys of what lies in the bucket, with their bytes.
func (s *S3) Objects() map[string][]byte {
	s.tb.Helper()
	objects := map[string][]byte{}
	bucket := os.DirFS(s.Dir)
	err := fs.WalkDir(bucket, ".", func(key string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		objects[key], err = fs.ReadFile(bucket, key)
		return err
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	return objects
}
