package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"berth/internal/nodetest"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// The tests of this package are about the whole program: real sockets, real
// files, a registry that counts what it is asked. Most run it inside the test
// process, with a clock of their own (home.serve); what is about processes runs
// it as one (home.run, home.build); what is about its commands is in
// testdata/*.txtar.

// TestMain makes the test binary a berth too: the one that scripts run.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"berth": asProgram})
}

// watchedResolver is the variable with the address of a name server to ask
// instead of the system's.
const watchedResolver = "BERTH_TEST_RESOLVER"

func asProgram() {
	if at := os.Getenv(watchedResolver); at != "" {
		net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "udp", at)
		}}
	}
	if calls := os.Getenv(refusedCalls); calls != "" {
		if err := refuse(calls); err != nil {
			fmt.Fprintln(os.Stderr, "refusing system calls:", err)
			os.Exit(exitFailed)
		}
	}
	main()
}

// leakChecked runs the tests, removes what they built, and says at the end which
// goroutines are left.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // nobody asked for another number
		_ = flag.Set("test.parallel", "8") // most of these tests wait for something
	}
	code := m.M.Run()
	os.RemoveAll(programs)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// programs is the folder of what tests build.
var programs = filepath.Join(os.TempDir(), fmt.Sprintf("berth-test-%d", os.Getpid()))

// The programs, each built once. Without -race: what they take of memory and
// time is the point.
var (
	berthProgram = sync.OnceValues(func() (string, error) { return goBuild("berth", ".") })
	swarmProgram = sync.OnceValues(func() (string, error) { return goBuild("swarm", "./testdata/swarm") })
)

func goBuild(name, folder string, flags ...string) (path string, err error) {
	path = filepath.Join(programs, name)
	out, err := exec.Command("go", slices.Concat([]string{"build", "-o", path}, flags, []string{folder})...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

func program(t testing.TB, build func() (string, error)) (path string) {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// patience is how long a test waits for what must happen at once.
const patience = nodetest.Patience

// soon is a context for such a wait, also while a test is cleaned up.
func soon(t testing.TB) context.Context {
	t.Helper()
	return nodetest.Soon(t)
}
