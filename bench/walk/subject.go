package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// subject is the program whose functions are counted.
type subject struct {
	module  string // its folder
	program string // its main package, from there
	// command is the command line that answers pulls at address, in front of the
	// registry at upstream, with its files in dir.
	command func(dir, address, upstream string) ([]string, error)
}

// berth is berth with its defaults, and an organisation that has an account at the
// registry.
func berth(dir, address, upstream string) ([]string, error) {
	// A folder of its own: berth watches it, and should see nothing else there.
	configs := filepath.Join(dir, "etc")
	if err := os.Mkdir(configs, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(configs, "berth.yaml")
	// One for all runs: berth reads a secret again and again for two seconds after it
	// was written, since it may change within one tick of the clock. The runs without
	// a pull take longer.
	secret := filepath.Join(filepath.Dir(dir), "secret")
	if _, err := os.Stat(secret); err != nil {
		if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	return []string{"--config", config, "serve"}, os.WriteFile(config, fmt.Appendf(nil, `listeners:
  - {address: "%s", organisation: acme, registry: registry.example}
registries:
  registry.example:
    type: generic
    endpoint: %s
organisations:
  acme:
    credentials:
      - {name: ci, registry: registry.example, username: %s, password_file: %s}
cache: {directory: %s}
admin: {address: "127.0.0.1:0", socket: %s}
`, address, upstream, user, secret, filepath.Join(dir, "cache"), filepath.Join(dir, "admin.sock")), 0o600)
}

// build builds the subject so that it counts, exactly: in a run with one pull more,
// one call more has to show.
func (s subject) build(ctx context.Context, into string) error {
	c := exec.CommandContext(ctx, "go", "build", "-cover", "-coverpkg=./...", "-covermode=atomic", "-o", into, s.program) //nolint:gosec // G204: a package of this module
	c.Dir = s.module
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", s.program, err, out)
	}
	return nil
}

// runLimit is for one run of the subject.
const runLimit = time.Minute

// run starts the subject in a folder of its own, has it pulled from, ends it, and
// gives the profile of what it called.
func (s subject) run(ctx context.Context, program, upstream string, pull func(ctx context.Context, base string) error) (p profile, err error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	dir, err := os.MkdirTemp(filepath.Dir(program), "run-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	address, err := ownAddress(ctx)
	if err != nil {
		return nil, err
	}
	args, err := s.command(dir, address, upstream)
	if err != nil {
		return nil, err
	}
	counters := filepath.Join(dir, "counters")
	if err := os.Mkdir(counters, 0o700); err != nil {
		return nil, err
	}
	var said bytes.Buffer
	c := exec.CommandContext(ctx, program, args...) //nolint:gosec // G204: what was just built
	c.Env = append(os.Environ(), "GOCOVERDIR="+counters)
	c.Dir, c.Stdout, c.Stderr = dir, &said, &said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return nil, err
	}
	alive, ended := context.WithCancel(ctx)
	waited := make(chan error, 1)
	go func() {
		defer ended() // nobody has to wait for its answers any more
		waited <- c.Wait()
	}()
	err = use(alive, "http://"+address, pull)
	_ = c.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	if err := errors.Join(err, <-waited); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.Bytes())
	}
	return readCounters(ctx, counters)
}

// use waits until the subject at base answers, and pulls.
func use(ctx context.Context, base string, pull func(ctx context.Context, base string) error) error {
	// A connection that is refused runs through none of the subject's functions, and
	// the first that is not is the last that is tried.
	for {
		_, err := get(ctx, base+"/v2/")
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("starting: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(rest)
	return pull(ctx, base)
}

// get makes a connection of its own, as a client does that pulls once.
func get(ctx context.Context, url string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	q.Header.Set("Accept", manifestType)
	q.Close = true
	a, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(a.Body); err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %.300s", url, a.Status, body.Bytes())
	}
	return body.Bytes(), nil
}

// ownAddress is free, on a loopback address that nobody else uses. On 127.0.0.1 a
// program that was a client of the port's last owner may go on asking there, and what
// it asks would be counted.
func ownAddress(ctx context.Context) (string, error) {
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
