// Command walk counts what a pull runs through:
//
//	go run ./bench/walk                 functions, files and packages of each kind of pull
//	go run ./bench/walk --functions     and which they are, by file
//
// It builds berth with coverage, starts it in front of a registry of its own that
// wants a token, pulls, and ends it. What a pull ran through is every function that
// was called more often in that run than in one without the pull. A closure is a
// function. Each run is made several times, and a function counts when the fewest
// calls with the pull are more than the most without, so that what a clock calls
// does not count.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "walk:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, w io.Writer) error {
	f := flag.NewFlagSet("walk", flag.ContinueOnError)
	functions := f.Bool("functions", false, "print the functions too, by file, with how often each was called")
	rounds := f.Int("rounds", 5, "how often each run is made")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 {
		return fmt.Errorf("--rounds %d: one at least", *rounds)
	}
	walks, err := measure(ctx, subject{module: ".", program: "./cmd/berth", command: berth}, *rounds)
	if err != nil {
		return err
	}
	return report(w, walks, *functions)
}

// report prints the walks as a table, and their functions if they are wanted.
func report(w io.Writer, walks *result, functions bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "pull\tfunctions\tof them closures\tfiles\tpackages\t")
	for _, one := range walks.walks {
		fmt.Fprintln(t, one.row())
	}
	fmt.Fprintln(t, walks.program.row())
	if err := t.Flush(); err != nil || !functions {
		return err
	}
	for _, one := range walks.walks {
		if err := one.list(w); err != nil {
			return err
		}
	}
	return nil
}
