package node

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/config"
	"berth/internal/hung"
)

// crowd is a node with many organisations, each with a drop-in that was written a while
// ago.
type crowd struct {
	*node

	t   testing.TB
	dir string
	log strings.Builder

	mu    sync.Mutex
	files map[string]int // that were looked at, and how often
}

func newCrowd(t testing.TB, many int) *crowd {
	t.Helper()
	c := &crowd{t: t, dir: t.TempDir(), files: map[string]int{}}
	c.put("berth.yaml", "listeners: [{address: \"127.0.0.1:0\", callers: token}]\ncache: {directory: cache}\nadmin: {address: \"\", socket: \"\"}\n")
	if err := os.Mkdir(filepath.Join(c.dir, "organisations.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		c.dropIn(fmt.Sprintf("o%d", i), fmt.Sprintf("tokens: [{name: a, sha256: %064x}]\ncredentials: [{name: ci, registry: ghcr.io, username: u, password: p%d}, {name: hub, registry: docker.io, username: u, password: p%d}]\n", i+100, i, i))
	}
	table := &hung.Table{Fault: func(what string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.files[filepath.Base(what)]++
	}}
	cfg, err := config.Load(filepath.Join(c.dir, "berth.yaml"), config.Options{Hung: table})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range cfg.Files { // as if they had been written a while ago
		f.Stamp.Settled = true
		cfg.Files[name] = f
	}
	buffer := newLogBuffer(&c.log)
	t.Cleanup(buffer.close)
	log := slog.New(slog.NewTextHandler(&c.log, nil))
	c.node, err = newNode(cfg, make([][]net.Listener, 1), setup{now: time.Now, log: log, level: new(slog.LevelVar), buffer: buffer, hung: table})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *crowd) put(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) dropIn(name, text string) { c.put("organisations.d/"+name+".yaml", text) }

// change has changed drop-ins put in force, and gives which files were looked at.
func (c *crowd) change(names ...string) map[string]int {
	c.t.Helper()
	c.files = map[string]int{}
	if err := c.applyDropIns(names); err != nil {
		c.t.Fatal(err)
	}
	for _, name := range names {
		if err := c.cfg.Broken[name]; err != nil {
			c.t.Fatal(err)
		}
	}
	return c.files
}

// One organisation's change is one organisation's work: no other's file is looked at,
// nothing is logged about another, and none is checked again.
func TestReload_LooksAtWhatHasChanged(t *testing.T) {
	c := newCrowd(t, 300)
	c.log.Reset()
	c.dropIn("o5", "grace: 1h\n")
	if files := c.change("o5"); len(files) != 1 || files["o5.yaml"] == 0 {
		t.Errorf("looked at %v", files)
	}
	if lines := strings.Count(c.log.String(), "\n"); lines != 1 || !strings.Contains(c.log.String(), "organisation=o5") {
		t.Errorf("%d lines: %s", lines, &c.log)
	}
	if got := c.cfg.Organisations["o5"].Grace; got != time.Hour || len(c.cfg.Organisations) != 300 {
		t.Errorf("%v, %d organisations", got, len(c.cfg.Organisations))
	}
	same := 0
	for name := range c.cfg.Organisations {
		if c.cfg.Same(name, c.started) {
			same++
		}
	}
	if same != 299 {
		t.Errorf("%d organisations count as unchanged", same)
	}
}

// What a change costs grows with what there is, and not with its square: twice as many
// registries of one organisation are twice as much work when another one changes.
func TestReload_IsLinear(t *testing.T) {
	cost := func(registries int) float64 {
		c := newCrowd(t, 2)
		var s strings.Builder
		s.WriteString("registries:\n")
		for i := range registries {
			fmt.Fprintf(&s, "  r%d.example: {aliases: [a%d-x]}\n", i, i)
		}
		c.dropIn("big", s.String())
		c.change("big")
		hours := 0
		return testing.AllocsPerRun(3, func() {
			hours++
			c.dropIn("o1", fmt.Sprintf("grace: %dh\n", hours))
			c.change("o1")
		})
	}
	few, many := cost(400), cost(800)
	if many > 2.5*few {
		t.Errorf("%v allocations with 400 registries, %v with 800", few, many)
	}
	t.Logf("%v allocations with 400 registries, %v with 800", few, many)
}

// One organisation of ten thousand changes.
func BenchmarkReload_OneOfTenThousand(b *testing.B) {
	c := newCrowd(b, 10_000)
	hours := 0
	begin := used(b)
	for b.Loop() {
		hours++
		c.dropIn("o5", fmt.Sprintf("grace: %dh\n", 1+hours%20))
		c.change("o5")
	}
	b.ReportMetric((used(b)-begin).Seconds()*1000/float64(hours), "CPU-ms/op")
}

// used is how much of the processors this process has had.
func used(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
