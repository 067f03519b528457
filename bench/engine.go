package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// The containerd that pulls.
const (
	containerdModule  = "github.com/containerd/containerd/v2"
	containerdVersion = "v2.4.2"
	containerdTags    = "no_btrfs no_zfs no_devmapper"
)

// engine is containerd as a program, with its client.
type engine struct{ containerd, ctr, version string }

// puller is a client of users, which has nothing at first.
type puller interface {
	// fetch has it pull an image.
	fetch(ctx context.Context, image string) error
	// has says what it does not have of that image.
	has(ctx context.Context, image string, of image) error
	remove() error
}

// findEngine finds containerd, once, and says why there is none.
func findEngine(ctx context.Context, b *bench) error {
	if b.engine != nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root")
	}
	var e engine
	var err error
	if e.containerd, err = containerdProgram(ctx, b.dir, "containerd"); err != nil {
		return err
	}
	if e.ctr, err = containerdProgram(ctx, b.dir, "ctr"); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, e.containerd, "--version").Output() //nolint:gosec // G204: what was found or built
	if err != nil {
		return fmt.Errorf("containerd --version: %w", err)
	}
	words := strings.Fields(string(out)) // containerd MODULE VERSION [REVISION]
	e.version = words[min(2, len(words)-1)]
	b.engine = &e
	return nil
}

// containerdProgram is one of containerd's programs: from the folder that E2E_TOOLS
// names, from what .ci/run keeps, or built as that does.
func containerdProgram(ctx context.Context, dir, name string) (string, error) {
	places := []string{}
	if tools := os.Getenv("E2E_TOOLS"); tools != "" {
		places = append(places, tools)
	}
	if cache := ciCache(); cache != "" {
		places = append(places, filepath.Join(cache, runtime.Version(), name+"@"+containerdVersion))
	}
	for _, place := range places {
		if path, err := exec.LookPath(filepath.Join(place, name)); err == nil {
			return path, nil
		}
	}
	module := containerdModule + "/cmd/" + name + "@" + containerdVersion
	say("building %s", module)
	c := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", "-tags="+containerdTags, module) //nolint:gosec // G204: constants
	c.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing %s: %w: %.500s", module, err, out)
	}
	return filepath.Join(dir, name), nil
}

// ciCache is where .ci/run keeps the programs that it builds.
func ciCache() string {
	if dir := os.Getenv("BERTH_CI_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "berth-ci")
}

// startContainerd starts one, as the rows of pulls want it.
func startContainerd(ctx context.Context, b *bench) (puller, error) {
	return b.engine.start(ctx, b.dir)
}

// containerd is a running one with a content store of its own.
type containerd struct {
	*server

	ctr, dir string
}

const containerdConfig = `version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
`

// start starts one with nothing in it, and waits until it answers.
func (e *engine) start(ctx context.Context, below string) (*containerd, error) {
	dir, err := os.MkdirTemp(below, "containerd-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := write(config, containerdConfig); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &containerd{ctr: e.ctr, dir: dir}
	daemon := exec.CommandContext(ctx, e.containerd, "--config", config, "--address", c.socket(), //nolint:gosec // G204: what was found or built
		"--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	daemon.Dir, daemon.Stdout, daemon.Stderr = dir, log, log
	if c.server, err = start(daemon); err != nil {
		return nil, err
	}
	if err := c.ready(ctx); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%w: %.2000s", err, text), c.remove())
	}
	return c, nil
}

func (c *containerd) socket() string { return filepath.Join(c.dir, "sock") }

func (c *containerd) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-c.done:
			return errors.New("containerd ended at once")
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// fetch has ctr fetch all of an image into the content store, all layers at once, and
// unpack nothing. Without --debug it would draw a progress bar, and end with its tick.
func (c *containerd) fetch(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	q := exec.CommandContext(ctx, c.ctr, "--debug", "--address", c.socket(), "--namespace", "bench", //nolint:gosec // G204: likewise
		"content", "fetch", "--plain-http", "--user", upstreamUser+":"+upstreamPassword, image)
	if out, err := q.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr content fetch %s: %w: %s", image, err, out[max(0, len(out)-500):])
	}
	return nil
}

// has says what is not in the content store. It has checked what is.
func (c *containerd) has(_ context.Context, _ string, of image) error {
	for _, d := range append([]string{of.Manifest}, of.Blobs...) {
		path := filepath.Join(c.dir, "root", "io.containerd.content.v1.content", "blobs", strings.Replace(d, ":", "/", 1))
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("it was not fetched: %w", err)
		}
	}
	return nil
}

// remove ends it and takes away what it has.
func (c *containerd) remove() error {
	c.stop()
	return os.RemoveAll(c.dir)
}
