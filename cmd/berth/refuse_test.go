package main

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refusedCalls is the variable with the system calls that the kernel refuses to a
// berth from its start on, as on a filesystem that does not know them:
// "linkat=EPERM flock=ENOLCK".
const refusedCalls = "BERTH_TEST_REFUSED_CALLS"

// ofdLock stands for fcntl with F_OFD_SETLK.
const ofdLock = "ofdlock"

var callNumbers = map[string]uint32{
	"linkat": unix.SYS_LINKAT, "flock": unix.SYS_FLOCK, "fsync": unix.SYS_FSYNC, "fdatasync": unix.SYS_FDATASYNC,
	"statfs": unix.SYS_STATFS, "fstatfs": unix.SYS_FSTATFS, ofdLock: unix.SYS_FCNTL,
}

var callErrors = map[string]unix.Errno{"EPERM": unix.EPERM, "ENOLCK": unix.ENOLCK, "EOPNOTSUPP": unix.EOPNOTSUPP, "EINVAL": unix.EINVAL, "ENOSYS": unix.ENOSYS}

// refuse makes a seccomp filter of calls and puts all threads of this process under it.
func refuse(calls string) error {
	const call, secondArgument = 0, 24 // offsets in struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: value}
	}
	answer := func(a uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: a} }
	var filter []unix.SockFilter
	for one := range strings.FieldsSeq(calls) {
		name, errno, _ := strings.Cut(one, "=")
		number, known := callNumbers[name]
		if !known || callErrors[errno] == 0 {
			return fmt.Errorf("%q is no call and error", one)
		}
		refusal := answer(unix.SECCOMP_RET_ERRNO | uint32(callErrors[errno]))
		filter = append(filter, load(call))
		if name == ofdLock {
			filter = append(filter, unless(number, 3), load(secondArgument), unless(unix.F_OFD_SETLK, 1), refusal)
		} else {
			filter = append(filter, unless(number, 1), refusal)
		}
	}
	filter = append(filter, answer(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}
