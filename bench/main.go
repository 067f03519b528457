package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command is the benchmark, or one of the servers that it starts itself as.
func command(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "upstream":
			return serveUpstream(ctx)
		case "bare":
			return serveBare(ctx, args[1:])
		case "growth":
			return growth(ctx, args[1:])
		}
	}
	p, err := parse(args)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// plan is what the flags say.
type plan struct {
	rows  []row
	peers []string
	runs  int
	out   string // folder for the results; empty: standard output only
	berth string // a program to use instead of building one
	// before is an older berth, which is measured as one more peer; empty: none.
	before string
}

func parse(args []string) (*plan, error) {
	var p plan
	var only, peers string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&only, "only", "", "rows, comma-separated, or what their names begin with (pull, cold): "+strings.Join(names(table()), ", "))
	f.StringVar(&peers, "peers", "", "peers, comma-separated: berth, distribution, zot, nginx, bare, direct, before")
	f.IntVar(&p.runs, "rounds", 3, "how often each row is measured for each peer, the peers in turn")
	f.IntVar(&p.runs, "runs", 3, "the same as --rounds")
	f.StringVar(&p.out, "out", "", "folder for results.md, results.json and results.svg")
	f.StringVar(&p.berth, "berth", "", "program to measure instead of building ./cmd/berth")
	f.StringVar(&p.before, "before", "", "an older berth, to measure as the peer \"before\" in the same run")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	p.peers = list(peers)
	var err error
	p.rows, err = choose(table(), list(only))
	return &p, err
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// run measures in a folder of its own, which is gone afterwards.
func (p *plan) run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, err := open(ctx, p, dir)
	if err != nil {
		return err
	}
	defer b.close()
	result, err := b.measure(ctx)
	if err != nil {
		return err
	}
	fmt.Println()
	fmt.Println(result.markdown())
	if p.out == "" {
		return nil
	}
	return result.save(filepath.Clean(p.out))
}
