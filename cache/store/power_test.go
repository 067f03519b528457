package store

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/ocitest"
	"berth/oci"
)

// noSync in the environment of a child says what it does not sync: "all", or only
// "files" or "folders".
const noSync = "BERTH_STORE_CHILD_NO_SYNC"

// powerChild publishes a blob for each line of its input, four at a time, and
// says so.
func powerChild(dir string) {
	var o Options
	if what := os.Getenv(noSync); what != "" {
		o.Fault = func(op Op, path string) error {
			file := strings.Contains(path, "/tmp/")
			if op == OpSync && (what == "all" || file == (what == "files")) {
				return errSkipped
			}
			return nil
		}
	}
	s, err := Open(dir, o)
	if err != nil {
		fmt.Println(err)
		return
	}
	orders := make(chan uint64)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for seed := range orders {
				dieOnTheWay(s, random(seed, 1+int(seed*77_777%100_000)), func() {})
			}
		})
	}
	lines := bufio.NewScanner(os.Stdin)
	for seed := uint64(1); lines.Scan(); seed++ {
		orders <- seed
	}
	close(orders)
	all.Wait()
	_ = s.Close() // the process ends
}

// machine is a disk that can lose its power: an ext4 filesystem in a file that
// lies on another one, which is frozen while the file is copied. What the inner
// one has not yet written is not in the copy.
type machine struct {
	t                      *testing.T
	outer, inner, snapshot string // where they are mounted
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := ocitest.MemoryDir(t)
	m := &machine{t: t, outer: filepath.Join(dir, "outer"), inner: filepath.Join(dir, "inner"), snapshot: filepath.Join(dir, "snapshot")}
	m.format(filepath.Join(dir, "outer.img"), 256<<20, "-O", "^has_journal")
	m.mount(filepath.Join(dir, "outer.img"), m.outer)
	m.format(m.image(), 128<<20)
	m.mount(m.image(), m.inner)
	return m
}

func (m *machine) image() string { return filepath.Join(m.outer, "disk.img") }

func (m *machine) format(image string, size int64, more ...string) {
	m.t.Helper()
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(size)
		_ = f.Close() // it is empty
	}
	if err != nil {
		m.t.Fatal(err)
	}
	program := "/usr/sbin/mkfs.ext4" // which is not in everybody's path
	if _, err := os.Stat(program); err != nil {
		m.t.Skip("no mkfs.ext4:", err)
	}
	if out, err := exec.CommandContext(m.t.Context(), program, append(more, "-q", "-F", image)...).CombinedOutput(); err != nil {
		m.t.Skipf("mkfs.ext4: %v: %s", err, out)
	}
}

func (m *machine) mount(image, at string) {
	m.t.Helper()
	if err := os.MkdirAll(at, 0o700); err != nil {
		m.t.Fatal(err)
	}
	if out, err := exec.CommandContext(m.t.Context(), "mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		m.t.Skipf("cannot mount a file: %v: %s", err, out)
	}
	m.t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // a snapshot is gone already
}

// The ioctls of linux/fs.h, which freeze and thaw a filesystem.
const (
	freeze = 0xC0045877
	thaw   = 0xC0045878
)

// cut gives the disk as it would be found if the power failed now.
func (m *machine) cut() (image string) {
	m.t.Helper()
	dir, err := os.Open(m.outer)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = dir.Close() }() // only for the ioctls
	if err := unix.IoctlSetInt(int(dir.Fd()), freeze, 0); err != nil {
		m.t.Skip("cannot freeze a filesystem:", err)
	}
	defer func() {
		if err := unix.IoctlSetInt(int(dir.Fd()), thaw, 0); err != nil {
			m.t.Error(err)
		}
	}()
	image = m.snapshot + ".img"
	if out, err := exec.CommandContext(m.t.Context(), "cp", "--sparse=always", m.image(), image).CombinedOutput(); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
	return image
}

// run cuts the power n times while blobs are published, and gives what was lost
// and what was damaged.
func (m *machine) run(n int) (lost, damaged []string) {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	child := exec.CommandContext(m.t.Context(), self)
	child.Env = append(os.Environ(), childDoes+"=power", childDir+"="+filepath.Join(m.inner, "cache"))
	orders, err := child.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait() // it was killed
	}()
	random := rand.New(rand.NewPCG(3, 4))
	said := bufio.NewScanner(out)
	var kept []oci.Digest
	pending := 0
	for range n {
		const batch = 40
		if _, err := io.WriteString(orders, strings.Repeat("\n", batch)); err != nil {
			m.t.Fatal(err)
		}
		pending += batch
		for until := 5 + random.IntN(batch-5); until > 0 && said.Scan(); until-- {
			digest, ok := strings.CutPrefix(said.Text(), "kept ")
			if !ok {
				m.t.Fatal(said.Text())
			}
			kept = append(kept, oci.Digest(digest))
			pending--
		}
		l, d := m.examine(m.cut(), kept)
		lost, damaged = append(lost, l...), append(damaged, d...)
		for ; pending > 0 && said.Scan(); pending-- {
			kept = append(kept, oci.Digest(strings.TrimPrefix(said.Text(), "kept ")))
		}
	}
	m.t.Logf("%d blobs, %d cuts: %d lost, %d damaged", len(kept), n, len(lost), len(damaged))
	return lost, damaged
}

// examine starts on what a cut has left.
func (m *machine) examine(image string, kept []oci.Digest) (lost, damaged []string) {
	m.t.Helper()
	m.mount(image, m.snapshot)
	defer func() {
		if err := unix.Unmount(m.snapshot, 0); err != nil {
			m.t.Error(err)
		}
	}()
	s, err := Open(filepath.Join(m.snapshot, "cache"), Options{Boot: "after the cut"})
	if err != nil {
		return []string{err.Error()}, nil
	}
	defer closeStore(m.t, s)
	<-s.capacity.counted
	wantClean(m.t, s)
	for _, d := range kept {
		f, size, err := s.OpenBlob(here, d)
		if err != nil {
			lost = append(lost, d.Encoded())
			continue
		}
		if s.hashFile(m.t.Context(), d, f, size) != nil {
			damaged = append(damaged, d.Encoded())
		}
		_ = f.Close() // only read from
	}
	return lost, damaged
}

func cuts() int {
	if os.Getenv("BERTH_LONG") != "" {
		return 20
	}
	return 3
}

// What was published is there after a power cut, and is what it was.
func TestPowerCuts(t *testing.T) {
	if testing.Short() {
		t.Skip("makes filesystems")
	}
	lost, damaged := newMachine(t).run(cuts())
	if len(lost)+len(damaged) > 0 {
		t.Errorf("lost: %v; damaged: %v", lost, damaged)
	}
}

// It would not be if one of them were not synced: so the test before can tell.
func TestPowerCutsWithoutSync(t *testing.T) {
	if testing.Short() {
		t.Skip("makes filesystems")
	}
	for _, what := range []string{"all", "files", "folders"} {
		t.Run(what, func(t *testing.T) {
			t.Setenv(noSync, what)
			if lost, damaged := newMachine(t).run(cuts()); len(lost)+len(damaged) == 0 {
				t.Errorf("nothing was lost though %s were not synced: this test cannot tell", what)
			}
		})
	}
}
