package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// pounding is what came of pound.
type pounding struct {
	requests int
	took     time.Duration
	p50, p99 time.Duration
}

// pound asks for requests, one after the other on each of as many connections as
// there are clients, for d. One thread does it all by epoll: the servers are on
// the same cores, so what asking costs decides how much is left to them.
func pound(ctx context.Context, address string, requests [][]byte, clients int, d time.Duration) (pounding, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return pounding{}, err
	}
	defer unix.Close(epoll) //nolint:errcheck // nothing was written
	callers := map[int32]*caller{}
	defer func() {
		for fd := range callers {
			_ = unix.Close(int(fd)) // likewise
		}
	}()
	for i := range clients {
		c, err := newCaller(epoll, address, requests, i)
		if err != nil {
			return pounding{}, err
		}
		callers[int32(c.fd)] = c
	}
	return listen(ctx, epoll, callers, d)
}

// listen goes on while there is time.
func listen(ctx context.Context, epoll int, callers map[int32]*caller, d time.Duration) (p pounding, err error) {
	events := make([]unix.EpollEvent, len(callers))
	var took []time.Duration
	start := time.Now()
	for p.took < d && ctx.Err() == nil {
		n, err := unix.EpollWait(epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return p, err
		}
		for _, e := range events[:max(n, 0)] {
			c := callers[e.Fd]
			done, err := c.receive()
			if err != nil {
				return p, err
			}
			if !done {
				continue
			}
			took = append(took, time.Since(c.sent))
			if err := c.send(); err != nil {
				return p, err
			}
		}
		p.took = time.Since(start)
	}
	slices.Sort(took)
	if p.requests = len(took); p.requests > 0 {
		p.p50, p.p99 = took[len(took)/2], took[len(took)*99/100]
	}
	return p, ctx.Err()
}

// caller is one connection.
type caller struct {
	fd       int
	requests [][]byte
	next     int
	sent     time.Time
	buf      []byte
	have     int
	due      int // the length of the answer, 0 until its header is there
}

func newCaller(epoll int, address string, requests [][]byte, i int) (*caller, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &caller{fd: fd, requests: requests, next: i, buf: make([]byte, 64<<10)}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return nil, err
	}
	return c, c.send()
}

// send asks for the next.
func (c *caller) send() error {
	c.have, c.due, c.sent = 0, 0, time.Now()
	request := c.requests[c.next%len(c.requests)]
	c.next++
	_, err := unix.Write(c.fd, request) // short ones always fit
	return err
}

// receive takes what has come, and says whether that is all.
func (c *caller) receive() (done bool, err error) {
	n, err := unix.Read(c.fd, c.buf[c.have:])
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, fmt.Errorf("the connection was closed after %.200q", c.buf[:c.have])
	}
	c.have += n
	if c.due == 0 {
		if err := c.header(); err != nil {
			return false, err
		}
	}
	return c.due > 0 && c.have >= c.due, nil
}

// header reads the length, when all of the header is there.
func (c *caller) header() error {
	end := bytes.Index(c.buf[:c.have], []byte("\r\n\r\n"))
	if end < 0 {
		return nil
	}
	head := c.buf[:end+2]
	_, rest, ok := bytes.Cut(head, []byte("\r\nContent-Length: "))
	length, _, _ := bytes.Cut(rest, []byte("\r\n"))
	n, err := strconv.Atoi(string(length))
	if !ok || err != nil || !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("not an answer with a length: %.300q", c.buf[:c.have])
	}
	c.due = end + 4 + n
	if c.due > len(c.buf) {
		return fmt.Errorf("an answer of %d bytes is too large here", c.due)
	}
	return nil
}

// request is a GET of path.
func request(address, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\nUser-Agent: containerd/2.2\r\n\r\n", path, address, manifestType)
}
