package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"syscall"
	"time"
)

// server is a process that answers here.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start starts c, which ends with this process.
func start(c *exec.Cmd) (*server, error) {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 3 * time.Second
	if err := c.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: c, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = c.Wait() // how it ended is of no interest
	}()
	return s, nil
}

// stop ends it.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-s.done:
	case <-time.After(3 * time.Second):
		_ = s.cmd.Process.Kill() // likewise
		<-s.done
	}
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// answers waits until url answers anything.
func (s *server) answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		a, err := http.DefaultTransport.RoundTrip(q)
		if err == nil {
			return a.Body.Close()
		}
		select {
		case <-s.done:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", url, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// freePort is one that nobody uses now.
func freePort(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
