package upstream

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// setLoopback takes the loopback device of this thread's network up or down.
func setLoopback(t *testing.T, flags uint16) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

// The kernel knows that nothing arrives any more: here in a network of its own, whose
// only device is taken down.
func TestDeadConnection_KernelKnows(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make a network")
	}
	runtime.LockOSThread() // and never unlock it: the thread keeps its network, and ends with this goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("cannot make a network:", err)
	}
	setLoopback(t, unix.IFF_UP)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{Conn: raw, pool: newPools(transportOptions{dialer: newDialer(nil, nil, nil), secure: newSecure(nil, nil)}).now(), born: time.Now()}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	say := func() {
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	say()
	if _, err := far.Read(make([]byte, 100)); err != nil { // then it has been acknowledged, or will be at once
		t.Fatal(err)
	}
	if c.isUnacknowledged() {
		t.Error("what was read is not acknowledged")
	}
	setLoopback(t, 0)
	say()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(20 * time.Second); !c.isUnacknowledged(); {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the kernel never notices")
		}
	}
}
