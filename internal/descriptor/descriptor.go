// Package descriptor tells when file descriptors have run out.
//
// Each connection and each open file takes a descriptor, and a process may have a
// limited number (RLIMIT_NOFILE). That they are used up says nothing about the file
// or the host that was to be opened: what has been fetched is not fetched again for
// it, and no registry is in trouble.
package descriptor

import (
	"errors"
	"math"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// retryAfter is what clients are told.
const retryAfter = 5 * time.Second

// Exhausted reports whether err says that this process (EMFILE) or this machine
// (ENFILE) has no descriptor left.
func Exhausted(err error) bool {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return true
	}
	// A look-up keeps the text of what stopped it, and not the error.
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && (strings.HasSuffix(dns.Err, syscall.EMFILE.Error()) || strings.HasSuffix(dns.Err, syscall.ENFILE.Error()))
}

// Error is the answer for whoever got no descriptor: this node's trouble, and to be
// tried again. err is for the log.
func Error(err error) *oci.Error {
	return &oci.Error{
		Class: oci.Disk, Detail: "no file descriptor left", RetryAfter: retryAfter, Err: err,
		Message: "this node has no file descriptor left: pull again in a moment; whoever runs the node lets it open more files (LimitNOFILE= or ulimit -n) or lowers limits.requests",
	}
}

// Limit is how many descriptors this process may have; 0: it is not known. Go raises
// the soft limit to the hard one at the start of a program.
func Limit() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(l.Cur, math.MaxInt32)) // it may be "unlimited"
}
