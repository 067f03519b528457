package proof

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A child of TestDenialsSurviveSIGKILL finds the file, and what to do, here.
const (
	childPath = "BERTH_FACTS_CHILD_PATH"
	childDoes = "BERTH_FACTS_CHILD_DOES"
)

// rounds is how many children are killed.
func rounds() int {
	if os.Getenv("BERTH_LONG") != "" {
		return 200
	}
	return 20
}

// What the child does before it kills itself, in the middle of everything.
const (
	denyStored  = "deny what was proven before the last restart"
	denyPending = "deny what was proven just now"
	denyNothing = "deny nothing"
)

// denyAndDie is the child: it ends by SIGKILL, so nothing is closed or flushed.
func denyAndDie(path, does string) {
	f, err := Open(path, Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() { // others write meanwhile
		for i := 0; ; i++ {
			a := acme
			a.Repo = fmt.Sprintf("acme/other%d", i%100)
			f.Prove(a, member, time.Now())
			if i%10 == 0 {
				f.Deny(a)
			}
		}
	}()
	if does == denyPending {
		f.Prove(acme, member, time.Now())
	}
	if does != denyNothing {
		f.Deny(acme)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestDenialsSurviveSIGKILL(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	for i := range rounds() {
		for _, does := range []string{denyStored, denyPending} {
			path := proveAndKill(t, does)
			f := open(t, path, Options{})
			if age, _ := f.Access(acme); age != None {
				t.Fatalf("round %d: %s: after the restart it is %s", i, does, ageNames[age])
			}
			if does == denyStored && !f.Denied(acme) {
				t.Fatalf("round %d: %s: no trace of the denial", i, does)
			}
			wantMember(t, f, member, Fresh)
			closeFacts(t, f)
		}
	}
	// The proof would have been revived but for the denial.
	wantAccess(t, open(t, proveAndKill(t, denyNothing), Options{}), acme, Grace)
}

// proveAndKill makes a file with a proof for acme, lets a child work on it until
// it is killed, and gives its path.
func proveAndKill(t *testing.T, does string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{})
	m := member
	f.Prove(Access{Repo: "other"}, m, time.Now())
	if does != denyPending {
		f.Prove(acme, m, time.Now())
	}
	closeFacts(t, f)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self)
	// The race detector sleeps for a second before a process ends.
	child.Env = append(os.Environ(), childPath+"="+path, childDoes+"="+does, "GORACE=atexit_sleep_ms=0")
	out, err := child.CombinedOutput()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child was to be killed: %v\n%s", err, out)
	}
	return path
}
