// Command swarm is many clients that get one URL at the same time:
//
//	swarm URL CLIENTS STAY LEAVE_AT
//
// STAY of them read it all, the others hang up after LEAVE_AT bytes. For each it
// writes a line at the first byte of the body ("first") and one at its end: how much
// it read and the CRC-32C of that, or what went wrong. It is a program of its own, so
// that what the clients take is not taken from the test, and it is a cheap one:
// what is measured is the server.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(from string, numbers []string) error {
	var clients, stay, leaveAt int
	if _, err := fmt.Sscan(strings.Join(numbers, " "), &clients, &stay, &leaveAt); err != nil {
		return fmt.Errorf("reading the numbers of clients and bytes: %w", err)
	}
	u, err := url.Parse(from)
	if err != nil {
		return fmt.Errorf("reading the URL: %w", err)
	}
	lines := make(chan string)
	var all sync.WaitGroup
	for i := range clients {
		most := int64(math.MaxInt64)
		if i >= stay {
			most = int64(leaveAt)
		}
		all.Go(func() {
			sum, err := get(u, most, lines)
			if err != nil {
				sum = err.Error()
			}
			lines <- sum
		})
	}
	go func() {
		all.Wait()
		close(lines)
	}()
	for line := range lines {
		fmt.Println(line)
	}
	return nil
}

// get reads the header by net/http and the body by itself: a buffer that is
// shared by all clients stays in the processor's cache. It reads most bytes of the body.
func get(u *url.URL, most int64, lines chan<- string) (string, error) {
	d := net.Dialer{Control: smallBuffer}
	conn, err := d.Dial("tcp", u.Host)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		return "", err
	}
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, nil)
	if err != nil {
		return "", err
	}
	// resp.Body is not closed: it would wait for the bytes that are taken here.
	if resp.StatusCode != http.StatusOK || resp.ContentLength < int64(buffered.Buffered()) {
		return "", fmt.Errorf("status %d, %d bytes", resp.StatusCode, resp.ContentLength)
	}
	size := min(resp.ContentLength, most)
	b := &body{left: size, first: func() { lines <- "first" }}
	begun, err := buffered.Peek(int(min(size, int64(buffered.Buffered()))))
	if err != nil {
		return "", err
	}
	b.take(begun)
	if err := b.readAll(conn); err != nil {
		return "", fmt.Errorf("%d bytes before the end: %w", b.left, err)
	}
	return fmt.Sprintf("%d %08x", size, b.sum), nil
}

// smallBuffer keeps what is under way to hundreds of slow clients well below
// what the kernel grants TCP as a whole: beyond, it drops, and whoever was
// dropped waits for retransmissions.
func smallBuffer(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<20)
	})
	return errors.Join(err, failed)
}

// body is what is left to be read, and the sum of what was.
type body struct {
	left  int64
	sum   uint32
	first func()
}

func (b *body) take(p []byte) {
	if b.first != nil && len(p) > 0 {
		b.first()
		b.first = nil
	}
	b.sum = crc32.Update(b.sum, castagnoli, p)
	b.left -= int64(len(p))
}

func (b *body) readAll(conn net.Conn) error {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("no socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	for b.left > 0 {
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			buf := buffers.Get().(*[256 << 10]byte)
			defer buffers.Put(buf)
			n, err := syscall.Read(int(fd), buf[:min(b.left, int64(len(buf)))])
			switch {
			case errors.Is(err, syscall.EAGAIN):
				return false
			case err == nil && n == 0:
				err = io.ErrUnexpectedEOF
			}
			b.take(buf[:max(n, 0)])
			failed = err
			return true
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	buffers    = sync.Pool{New: func() any { return new([256 << 10]byte) }}
)
