package store

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/oci"
)

// A child of a test finds what to do, and where, in these.
const (
	childDoes = "BERTH_STORE_CHILD"
	childDir  = "BERTH_STORE_CHILD_DIR"
	childSeed = "BERTH_STORE_CHILD_SEED"
)

var children = map[string]func(dir string){
	"open":    openChild,
	"publish": publishChild,
	"die":     dieChild,
	"power":   powerChild,
}

func rounds(t *testing.T, byDefault int) int {
	t.Helper()
	if testing.Short() {
		t.Skip("starts many processes")
	}
	if os.Getenv("BERTH_LONG") != "" {
		return 200
	}
	return byDefault
}

// runChild runs the test binary as a child that does what the name says, and
// gives what it printed.
func runChild(t *testing.T, does, dir string, wrapper ...string) (out string, end syscall.WaitStatus) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrapper, self)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	// The race detector sleeps for a second before a process ends.
	cmd.Env = append(os.Environ(), childDoes+"="+does, childDir+"="+dir, "GORACE=atexit_sleep_ms=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil && stderr.Len() > 0 {
		t.Logf("%v: %s", err, &stderr)
	}
	end, _ = cmd.ProcessState.Sys().(syscall.WaitStatus)
	return string(stdout), end
}

func openChild(dir string) {
	s, err := Open(dir, Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("opened")
	_ = s.Close() // the process ends
}

// report is what publishChild says about its store when it is done.
type report struct {
	Err   string
	Usage Usage
	Tmp   []string
}

// childBlob is what publishChild publishes.
func childBlob() []byte { return random(7, 2*BlockSize+5) }

// publishChild publishes one blob. Its syscalls are watched, or made to fail.
func publishChild(dir string) {
	runtime.LockOSThread() // strace counts the calls of each thread
	var r report
	defer func() {
		line, _ := json.Marshal(r) // cannot fail: strings and numbers
		fmt.Println(string(line))
	}()
	s, err := Open(dir, Options{})
	if err != nil {
		r.Err = err.Error()
		return
	}
	b, err := grow(s, here, childBlob())
	if err == nil {
		err = b.Publish()
	}
	if err != nil {
		r.Err = err.Error()
	}
	r.Usage = s.Usage()
	left, _ := os.ReadDir(s.tmp()) // an error shows as a lack of names, and the parent looks too
	for _, e := range left {
		r.Tmp = append(r.Tmp, e.Name())
	}
	_ = s.Close() // the process ends
}

// dieChild publishes until it kills itself, which it does at a step that the
// seed chooses, while others are at any step of theirs.
func dieChild(dir string) {
	seed, _ := strconv.ParseUint(os.Getenv(childSeed), 10, 64)
	s, err := Open(dir, Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var steps atomic.Uint64
	last := 1 + rand.New(rand.NewPCG(seed, 0)).Uint64N(120)
	step := func() {
		if steps.Add(1) == last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	var all sync.WaitGroup
	for w := range uint64(4) {
		all.Go(func() {
			for i := uint64(0); ; i++ {
				dieOnTheWay(s, random(seed*1000+w*100+i, 1+int((seed+i)*77_777%(2*BlockSize))), step)
			}
		})
	}
	all.Wait()
}

func dieOnTheWay(s *Store, data []byte, step func()) {
	d := oci.DigestOf(data)
	b, err := s.NewBlocks(Account{}, here, d, int64(len(data)))
	if err != nil {
		fmt.Println(err)
		return
	}
	r := b.Claim(0, int64(len(data)))
	for !r.done() && err == nil {
		step()
		_, err = r.Write(data[r.Pos():min(r.Pos()+300_000, int64(len(data)))])
	}
	r.Release()
	if err == nil {
		err = b.Hash(context.Background())
	}
	step()
	if err == nil {
		err = b.Publish()
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("kept", d)
	step()
}
