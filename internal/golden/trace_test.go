package golden

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// traced are the system calls that a trace has. Those that a kernel does not have are
// no error (?).
const traced = "openat,openat2,read,readv,pread64,preadv,write,writev,pwrite64,pwritev," +
	"sendfile,splice,copy_file_range,fsync,fdatasync,sync_file_range,ftruncate,renameat,?renameat2,linkat,mkdirat,unlinkat"

// tracer finds strace. What CI installed may not be missing in CI.
func tracer(t *testing.T) string {
	t.Helper()
	missing := t.Skip
	if os.Getenv("CI") != "" && os.Geteuid() == 0 {
		missing = t.Fatal
	}
	path, err := exec.LookPath("strace")
	if err != nil {
		missing("what a pull costs inside is counted with strace, which is not installed (Debian's package strace): ", err)
	}
	if out, err := exec.Command(path, "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		missing("what a pull costs inside is counted with strace, which may not trace here: ", err, string(out))
	}
	return path
}

// under are the words in front of a command that write its system calls to file. The
// command is a child of ours, and strace below it (-D), so that signals are for it.
func under(strace, file string) []string {
	return []string{strace, "-D", "-f", "--seccomp-bpf", "-yy", "-s", "100", "-e", "signal=none", "-e", "trace=" + traced, "-o", file}
}

// syscallMade is a system call that ended well.
type syscallMade struct {
	name string
	// on is what the call is about: the path of the file, or TCP:[from->to] of the
	// socket. For sendfile that is what it sends to.
	on   string
	text string
	n    int64 // what it returned
}

var (
	resumedCall = regexp.MustCompile(`^<\.\.\. \w+ resumed>`)
	wholeCall   = regexp.MustCompile(`^(\w+)\((.*)\)\s+= (-?\d+)(.*)$`)
	firstFile   = regexp.MustCompile(`^\d+<((?:TCP|TCPv6|UNIX|UDP):\[[^\]]*\]|[^>]*)>`)
	quotedPath  = regexp.MustCompile(`^AT_FDCWD<[^>]*>, "([^"]*)"`)
)

// readTrace waits until the command that was traced has ended, and strace has written
// that. A call that others came between is two lines: one begins it, the other ends it.
func readTrace(t *testing.T, file string) []syscallMade {
	t.Helper()
	var text string
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = string(data)
		// The first line is of the thread whose end is the process's.
		main, _, _ := strings.Cut(text, " ")
		if last := lastLine(text); strings.HasSuffix(text, " +++\n") && strings.HasPrefix(last, main+" ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("strace did not end: %s", lastLine(text))
		}
	}
	var all []syscallMade
	begun := map[string]string{} // by thread
	for line := range strings.Lines(text) {
		thread, call, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		call = strings.TrimSpace(call)
		if resumedCall.MatchString(call) {
			call = begun[thread] + resumedCall.ReplaceAllString(call, "")
		}
		if first, unfinished := strings.CutSuffix(call, " <unfinished ...>"); unfinished {
			begun[thread] = first
			continue
		}
		m := wholeCall.FindStringSubmatch(call)
		if m == nil || strings.HasPrefix(m[3], "-") {
			continue // a thread's end, or a call that found nothing to do
		}
		n, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			t.Fatal(line, err)
		}
		one := syscallMade{name: m[1], text: m[2], n: n}
		if path := quotedPath.FindStringSubmatch(m[2]); path != nil {
			one.on = path[1]
		} else if file := firstFile.FindStringSubmatch(m[2]); file != nil {
			one.on = file[1]
		}
		all = append(all, one)
	}
	return all
}

func lastLine(text string) string {
	text = strings.TrimSuffix(text, "\n")
	return text[strings.LastIndex(text, "\n")+1:]
}

// group is the name under which a call is counted.
func group(call string) string {
	switch call {
	case "openat", "openat2":
		return "open"
	case "read", "readv", "pread64", "preadv":
		return "read"
	case "write", "writev", "pwrite64", "pwritev":
		return "write"
	case "sendfile", "splice", "copy_file_range":
		return "sendfile"
	case "fsync", "fdatasync", "sync_file_range":
		return "fsync"
	case "renameat", "renameat2":
		return "rename"
	default:
		return strings.TrimSuffix(call, "at")
	}
}

// about says whether c is about the object with this digest: its file, the file that
// grows into it, or a folder on the way to it.
func (c syscallMade) about(cache, hex string) bool {
	name, ok := strings.CutPrefix(c.on, cache+"/")
	if !ok {
		return c.on == cache
	}
	switch {
	case strings.HasPrefix(name, "tmp/"):
		return strings.HasPrefix(name, "tmp/"+hex[:16])
	case !strings.HasPrefix(name+"/", "blobs/"):
		return false // the database and the like
	case filepath.Base(filepath.Dir(filepath.Dir(name))) == "sha256":
		return filepath.Base(name) == hex
	case filepath.Base(filepath.Dir(name)) == "sha256":
		return filepath.Base(name) == hex[:2]
	}
	return true
}
