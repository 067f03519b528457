package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// dimension is something that a node can have much of.
type dimension struct {
	name, title string
	sizes       []int
	// config is what the configuration has for n of them, below an organisation acme
	// and the registry that it pulls from. nil: nothing.
	config func(g *growing, n int) (string, error)
	// fill brings n of them about, at a node that runs. nil: nothing.
	fill func(ctx context.Context, g *growing, n int) error
	// asks are the requests of the warm pulls. nil: one, of acme.
	asks func(g *growing, n int) [][]byte
}

func dimensions() []dimension {
	return []dimension{
		{name: "organisations", title: "organisations, each with a token and an account", sizes: []int{1, 10, 100, 1000, 10_000}, config: manyOrganisations},
		{name: "registries", title: "registries in the configuration", sizes: []int{1, 10, 100, 1000}, config: manyRegistries},
		{name: "objects", title: "objects that are kept", sizes: []int{1, 1000, 10_000, 100_000, 1_000_000}, fill: manyObjects},
		{name: "proofs", title: "repositories that are shown to be open to the one who pulls, asked for in turn", sizes: []int{1, 10, 100, 1000, 10_000}, asks: manyRepositories},
		{name: "clients", title: "clients that are connected, of whom 16 ask", sizes: []int{16, 100, 1000, 5000}, fill: manyClients},
	}
}

// point is what a node of some size costs.
type point struct {
	N           int
	CPU         float64 // us for each warm pull of a manifest
	MiB, Starts float64 // starts: ms
}

// growing is a node whose costs are measured.
type growing struct {
	*bench

	program string
	at      *instance
	held    []net.Conn // of clients that only stay
}

const (
	growthToken   = "not-a-secret-either"
	growthClients = 16
	growthRounds  = 3
	growthFor     = time.Second
)

// growth measures how the cost of a warm pull, and memory, grow with what a node has.
func growth(ctx context.Context, args []string) (err error) {
	var only, out, program string
	f := flag.NewFlagSet("bench growth", flag.ContinueOnError)
	f.StringVar(&only, "only", "", "dimensions, comma-separated: organisations, registries, objects, proofs, clients")
	f.StringVar(&out, "out", "", "folder for growth.json, growth.md and growth.svg; what it has of other dimensions stays")
	f.StringVar(&program, "berth", "", "program to measure instead of building ./cmd/berth")
	if err := f.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "berth-growth-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	up, err := startUpstream(ctx, dir)
	if err != nil {
		return err
	}
	defer up.server.stop()
	b := &bench{plan: &plan{}, dir: dir, upstream: up}
	if _, err := up.blob(ctx, smallBlob); err != nil {
		return err
	}
	if _, err := up.manifest(ctx, warmTag); err != nil {
		return err
	}
	if program, err = berthRecipe("berth", program).find(ctx, b); err != nil {
		return err
	}
	found, err := loadGrowth(out)
	if err != nil {
		return err
	}
	for _, d := range dimensions() {
		if only != "" && !slices.Contains(list(only), d.name) {
			continue
		}
		found[d.name] = nil
		for _, n := range d.sizes {
			p, err := measureGrowth(ctx, b, program, d, n)
			if err != nil {
				return fmt.Errorf("%d %s: %w", n, d.name, err)
			}
			say("%9d %-13s %6.1f CPU us a pull; %4.0f MiB; ready in %.0f ms", n, d.name, p.CPU, p.MiB, p.Starts)
			found[d.name] = append(found[d.name], p)
		}
	}
	return found.save(out)
}

// growths are points by the name of their dimension. What one run measures is added to
// what the folder has of earlier ones: all at once takes long.
type growths map[string][]point

func loadGrowth(folder string) (growths, error) {
	found := growths{}
	text, err := os.ReadFile(filepath.Join(folder, "growth.json"))
	if folder == "" || errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	return found, json.Unmarshal(text, &found)
}

func (g growths) save(folder string) error {
	var all []curve
	for _, d := range dimensions() {
		if points := g[d.name]; len(points) > 0 {
			all = append(all, curve{d, points})
		}
	}
	table := growthTable(all)
	fmt.Println(table)
	if folder == "" {
		return nil
	}
	text, err := json.MarshalIndent(g, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(folder, "growth.json"), text, 0o600),
		os.WriteFile(filepath.Join(folder, "growth.md"), []byte(table), 0o600),
		os.WriteFile(filepath.Join(folder, "growth.svg"), []byte(growthPlot(all)), 0o600))
}

func measureGrowth(ctx context.Context, b *bench, program string, d dimension, n int) (p point, err error) {
	g := &growing{bench: b, program: program}
	defer func() { err = errors.Join(err, g.end()) }()
	dir, err := os.MkdirTemp(b.dir, d.name+"-")
	if err != nil {
		return p, err
	}
	g.at = &instance{dir: dir}
	began, err := g.start(ctx, d, n)
	if err != nil {
		return p, err
	}
	p = point{N: n, Starts: float64(began.Microseconds()) / 1000}
	if d.fill != nil {
		if err := d.fill(ctx, g, n); err != nil {
			return p, err
		}
	}
	asks := [][]byte{g.ask("upstream.example/team/app")}
	if d.asks != nil {
		asks = d.asks(g, n)
	}
	if err := g.warm(ctx, asks); err != nil {
		return p, err
	}
	var costs []float64
	for range growthRounds {
		before := cpu(g.at.pid())
		got, err := pound(ctx, g.at.address, asks, growthClients, growthFor)
		if err != nil {
			return p, err
		}
		costs = append(costs, float64((cpu(g.at.pid())-before).Microseconds())/float64(max(got.requests, 1)))
	}
	slices.Sort(costs)
	p.CPU, p.MiB = costs[len(costs)/2], memory(g.at.pid(), "VmRSS")
	return p, nil
}

func (g *growing) end() error {
	for _, c := range g.held {
		_ = c.Close() // nothing is said on it
	}
	if g.at.server != nil {
		g.at.stop()
	}
	return os.RemoveAll(g.at.dir)
}

// start starts the node with its configuration for n, and says how long that takes.
func (g *growing) start(ctx context.Context, d dimension, n int) (took time.Duration, err error) {
	dir := g.at.dir
	if g.at.address, err = freePort(ctx); err != nil {
		return 0, err
	}
	more := ""
	if d.config != nil {
		if more, err = d.config(g, n); err != nil {
			return 0, err
		}
	}
	text := fmt.Sprintf(`listeners: [{address: "%s", callers: token}]
cache: {directory: %s}
admin: {address: "127.0.0.1:0", socket: %s}
%s`, g.at.address, filepath.Join(dir, "cache"), filepath.Join(dir, "admin.sock"), more)
	if !strings.Contains(more, "registries:") {
		text += "registries:\n" + g.registry("upstream.example")
	}
	config := filepath.Join(dir, "berth.yaml")
	if err := errors.Join(write(config, text), g.organisation("acme", "upstream.example")); err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, g.program, "--config", config, "serve") //nolint:gosec // G204: what was asked for
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	began := time.Now()
	if g.at.server, err = start(c); err != nil {
		return 0, err
	}
	err = g.at.answers(ctx, "http://"+g.at.address+"/v2/")
	return time.Since(began), err
}

func (g *growing) registry(name string) string {
	return fmt.Sprintf("  %s: {type: generic, endpoint: %s}\n", name, g.origin(false).url)
}

// organisation writes the drop-in of an organisation that pulls from registry.
func (g *growing) organisation(name, registry string) error {
	dir := filepath.Join(g.at.dir, "organisations.d")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return write(filepath.Join(dir, name+".yaml"), fmt.Sprintf(
		"tokens: [{name: a, sha256: %x}]\ncredentials: [{name: ci, registry: %s, username: %s, password: %s}]\nlimits: {rate: 10000, burst: 10000}\n",
		sha256.Sum256([]byte(name+growthToken)), registry, upstreamUser, upstreamPassword))
}

// ask is acme's pull of a manifest.
func (g *growing) ask(repository string) []byte {
	login := base64.StdEncoding.EncodeToString([]byte("acme:acme" + growthToken))
	return fmt.Appendf(nil, "GET /v2/%s/manifests/%s HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\nUser-Agent: containerd/2.2\r\nAuthorization: Basic %s\r\n\r\n",
		repository, warmTag, g.at.address, manifestType, login)
}

// warm makes each of the requests once, and waits for a while until the node has come to
// rest.
func (g *growing) warm(ctx context.Context, asks [][]byte) error {
	all, asking := errgroup.WithContext(ctx)
	for i := range growthClients {
		all.Go(func() error {
			c, err := g.dial(asking)
			if err != nil {
				return err
			}
			defer c.Close()
			for at := i; at < len(asks); at += growthClients {
				if err := answered(c, asks[at]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	const rest, most = 500 * time.Millisecond, 40 // a node with much to look after never comes to rest
	for tries, was := 0, time.Duration(-1); tries < most && was != cpu(g.at.pid()); tries++ {
		was = cpu(g.at.pid())
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (g *growing) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp4", g.at.address)
}

// answered asks on c, and takes the answer.
func answered(c net.Conn, ask []byte) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := c.Write(ask); err != nil {
		return err
	}
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.300s", a.Status, text)
	}
	return err
}
