// Command fleet simulates a deployment to many nodes with a fleet, in virtual time:
//
//	go run ./bench/fleet                              the tables of doc/performance.md
//	go run ./bench/fleet --picture doc/simulation.svg and the picture
//	go run ./bench/fleet --only 1000                  scenarios of so many nodes
//
// Virtual time is package testing/synctest's, which works in tests alone. So this runs
// TestSimulation_Figures of package fleet, where the model is: the network, the engines,
// the disk and the client are made up, and what decides where bytes come from is what
// nodes run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, w io.Writer) error {
	f := flag.NewFlagSet("fleet", flag.ContinueOnError)
	picture := f.String("picture", "", "write a picture to this file")
	only := f.Int("only", 0, "scenarios of so many nodes only")
	seed := f.Uint64("seed", 0, "when nodes start and die; 0: by chance")
	if err := f.Parse(args); err != nil {
		return err
	}
	all, err := simulate(ctx, *only, *seed)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, table(all)); err != nil || *picture == "" {
		return err
	}
	return os.WriteFile(*picture, []byte(draw(all)), 0o644) //nolint:gosec // G306: a picture for everyone
}

// outcome is a line that the test has written.
type outcome struct {
	Name, Bucket      string
	Nodes             int
	Seed              uint64
	Copies, CutCopies float64
	Manifests         int64
	Failed, Killed    int
	P50, P99, Last    float64
	Gets              int64
	Trips             int64
	Waited            float64
}

// simulate runs the test and reads what it has written.
func simulate(ctx context.Context, only int, seed uint64) ([]outcome, error) {
	dir, err := os.MkdirTemp("", "berth-fleet-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, "outcomes")
	test := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=2h", "-v", "-run=^TestSimulation_Figures$", "./fleet")
	test.Env = append(os.Environ(), "BERTH_FLEET_SIMULATION="+to)
	if only > 0 {
		test.Env = append(test.Env, "BERTH_FLEET_NODES="+strconv.Itoa(only))
	}
	if seed > 0 {
		test.Env = append(test.Env, "BERTH_SEED="+strconv.FormatUint(seed, 10))
	}
	test.Stdout, test.Stderr = os.Stderr, os.Stderr
	if err := test.Run(); err != nil {
		return nil, fmt.Errorf("the simulation: %w", err)
	}
	file, err := os.Open(to)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []outcome
	for lines := json.NewDecoder(file); ; {
		var one outcome
		if err := lines.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
}

// table has a row for each scenario.
func table(all []outcome) string {
	var b strings.Builder
	b.WriteString("| | bucket | nodes | copies from the registry | counted GETs | half of the nodes after s | the last after s | GETs/s of the bucket | questions/s to the coordinator | its slowest answer ms | failed |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, o := range all {
		name := o.Name
		if o.Killed > 0 {
			name = fmt.Sprintf("%s (%d)", name, o.Killed)
		}
		copies := fmt.Sprintf("%.3f", o.Copies)
		if o.CutCopies > 0 {
			copies += fmt.Sprintf("; in the zone cut off %.2f a node", o.CutCopies)
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %d | %.1f | %.1f | %d | %d | %.0f | %d |\n",
			name, o.Bucket, o.Nodes, copies, o.Manifests, o.P50, o.Last, o.Gets, o.Trips, o.Waited*1000, o.Failed)
	}
	if len(all) > 0 {
		fmt.Fprintf(&b, "\nSeed %d.\n", all[0].Seed)
	}
	return b.String()
}
