package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode: who may not write to a Unix socket cannot connect to it (unix(7)).
const socketMode = 0o600

// lookTimeout bounds how long a socket that somebody left behind is tried.
const lookTimeout = time.Second

// Listen makes the socket at path, for the owner of this process only, and the
// folder it is in where that is missing. A socket that nobody answers on any
// more is replaced; one that somebody answers on, and anything that is no
// socket, is an error. Closing the listener removes the socket.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the socket: %w", err)
	}
	if err := clearAway(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: narrow}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the socket: %w", err)
	}
	s, err := hold(l, path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// narrow sets the mode before there is a name: Linux gives the file that bind
// makes the mode of the socket, less the umask, so that at no moment anyone
// else can connect (unix_bind_bsd in net/unix/af_unix.c).
func narrow(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, failed)
}

// clearAway takes away what an earlier process left at path.
func clearAway(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for an earlier socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there already and is no socket: remove it, or choose another admin.socket", path)
	}
	d := net.Dialer{Timeout: lookTimeout}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // nothing was said
		return fmt.Errorf("another process answers on %s: choose another admin.socket", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("another process may hold %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing an earlier socket: %w", err)
	}
	return nil
}

// held is a listener that removes its socket when it is closed, unless another
// process has put its own there meanwhile.
type held struct {
	*net.UnixListener

	path string
	file fs.FileInfo
}

func hold(l net.Listener, path string) (*held, error) {
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("%s is no Unix socket", path)
	}
	u.SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("looking at the socket: %w", err)
	}
	if mode := info.Mode().Perm(); mode&^socketMode != 0 {
		return nil, fmt.Errorf("the socket has mode %04o: this system does not let it be made for its owner only", mode)
	}
	return &held{UnixListener: u, path: path, file: info}, nil
}

// Close closes the socket and removes its name.
func (h *held) Close() error {
	if now, err := os.Lstat(h.path); err == nil && os.SameFile(now, h.file) {
		_ = os.Remove(h.path) // the next start replaces it otherwise
	}
	return h.UnixListener.Close()
}
