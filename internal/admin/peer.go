package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
)

type peerKey struct{}

// withPeer notes who is on the other end of c. The kernel says so; it translates
// user ids between user namespaces, so that root in a container of its own is
// not root here.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	uid, err := peerOf(c)
	if err != nil {
		return ctx // nobody, who may do nothing
	}
	return context.WithValue(ctx, peerKey{}, uid)
}

func peerOf(c net.Conn) (uid uint32, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("a connection of type %T has no peer credentials", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return cred.Uid, nil
}

// permitted says whether a process of user uid may give orders: root, and the
// user that this process runs as.
func permitted(uid uint32) bool { return uid == 0 || int64(uid) == int64(os.Geteuid()) }

// guarded lets only those in who are permitted. The mode of the socket keeps
// others out already, unless somebody changes it or hands a connection over.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peerKey{}).(uint32); !ok || !permitted(uid) {
			fail(w, http.StatusForbidden, "only root and the user that berth runs as may use this socket")
			return
		}
		next.ServeHTTP(w, r)
	})
}
