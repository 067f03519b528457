package descriptor_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"berth/internal/descriptor"
	"berth/oci"
)

func TestDescriptor_Exhausted(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		nil:                               false,
		errors.New("too many open files"): false, // anybody may write that
		fs.ErrNotExist:                    false,
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}:                                         true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.ENFILE)}:                       true,
		fmt.Errorf("x: %w", &net.DNSError{Err: "dial udp: socket: too many open files", Name: "ghcr.io"}): true,
		&net.DNSError{Err: "no such host", IsNotFound: true}:                                              false,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}:                false,
	} {
		if got := descriptor.Exhausted(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if e := descriptor.Error(syscall.EMFILE); e.Class != oci.Disk || e.Class.Owner() != "operator" || e.Class.Indeterminate() || !descriptor.Exhausted(e) || e.RetryAfter == 0 {
		t.Errorf("%+v", e)
	}
}
